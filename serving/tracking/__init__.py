"""Curves and final figures of a run where people track experiments: TensorBoard, MLflow, Weights & Biases; nothing is required.

May import: `serving.config`, `serving.stages`, and the other rooms: `llm`, `evaluation`, `semantic_ids`, `recsys`.
Read first: `track.py` (what is said), then `trackers.py` (to whom).
"""
