"""The service under load, its client included: against a plain handler under a lock, and against `playlists` on the same requests.

May import: `serving.service`, `serving.state`, `serving.playlists`, `serving.answering`, `serving.config`, `recsys`.
Read first: `__main__.py` (what is measured), then `load.py` (callers).
"""
