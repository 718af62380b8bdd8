"""Vectors of items, and of users as of a moment: LightGCN, SASRec, item-kNN, retrieval, the stage `embed`.

May import: `recsys/`, `recsys.artifacts`, `recsys.data`, `recsys.door`, `recsys.training`.
Read first: `user_vectors.py`, then `embed.py` (the stage) and `leaks.py` (its check).
"""
