"""Labelled lists (query, items shown, engaged or not) from a file, likes and dislikes, ratings or tags: the stage `engagement`.

May import: `recsys/`, `recsys.artifacts`, `recsys.data`, `recsys.door`.
Read first: `shown_lists.py`, then `label_lists.py` (the stage).
"""
