"""Answers of a finished run: `Recommender.recommend`, the methods it builds, requests of raw ids, events that came later.

May import: `serving.config`, and the other rooms.
Read first: `recommender.py`, then `methods.py`.
"""
