"""Playlists overnight: requests dealt into shards, answered by workers, written once, whoever dies.

May import: `serving.state`, `serving.answering`, `serving.config`, `serving.engines`, `recsys`.
Read first: `job.py`, then `plan.py`.
"""
