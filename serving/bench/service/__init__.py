"""The service under load, its client included: against a plain handler under a lock, and against `playlists` on the same requests.

May import: `serving.bench`, `serving.service`, `serving.state`, `serving.playlists`, `serving.answering`, `serving.config`, and `llm`, `semantic_ids`, `recsys`.
Read first: `measure.py` (what is measured), then `load.py` (callers).
"""
