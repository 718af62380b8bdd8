"""Playlists overnight: requests dealt into shards, answered by workers, written once, whoever dies.

May import: `serving.config`, `serving.engines`, `serving.answering`.
Read first: `job.py`, then `plan.py`.
"""
