"""Interactions, histories, user and item embeddings, and the run directory that everything else stands on.

Here are the four modules that everybody imports; the rest stands in folders.
May import: no other room.
Read first: `recommender.py` (the one call that all answer), then `run.py` (the run directory), then `data/`.
"""
