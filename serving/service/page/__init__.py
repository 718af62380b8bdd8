"""The page for those who run a service: a user's lists side by side, why an item, the tree of codes, the service itself.

May import: `serving.service`, `serving.value`, `serving.state`, `serving.answering`, `evaluation`, `recsys`.
Read first: `views.py` (what there is), then `figures.py` (what stands there).
"""
