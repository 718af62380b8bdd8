"""Answers of a finished run: `Recommender.recommend`, the methods it builds, requests of raw ids, feedback.

May import: `serving.config`, and the other rooms.
Read first: `recommender.py`, then `methods.py`.
"""
