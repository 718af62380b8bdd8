"""The language model itself: loading, cutting and freezing it, rows for semantic IDs, packed forward passes,
soft tokens and per-row updates of layers.

May import: `semantic_ids`, `recsys`.
Read first: `load.py`, then `sid_model.py` (log p(item | prompt) inside the trie).
"""
