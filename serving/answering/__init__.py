"""Answers of a finished run: `Recommender.recommend`, the methods it builds, requests of raw ids, feedback.

May import: `serving.state`, `serving.answering.kept`, `serving.config`, and the other rooms: `llm`, `evaluation`, `semantic_ids`, `recsys`.
Read first: `recommender.py`, then `methods.py`.
"""
