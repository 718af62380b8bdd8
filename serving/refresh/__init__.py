"""`prelude refresh`: a run's items, embeddings and people of today, as a version that is served, or is not, as a whole.

May import: `serving.state`, `serving.answering`, `serving.config`, and the other rooms: `llm`, `evaluation`, `semantic_ids`, `recsys`.
Read first: `refresh.py`, then `changes.py`, `items.py` and `gate.py`.
"""
