"""`prelude refresh`: a run's items, embeddings and people of today, as a version that is served, or is not, as a whole.

May import the answering stack and all below it. Read first: `refresh.py`, then `changes.py` and `building.py`.
"""
