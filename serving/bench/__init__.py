"""`prelude bench`: every hot path against what one would otherwise pick, in turn, on your machine.

May import: `serving.playlists`, `serving.engines`, `serving.answering`, `serving.config`, and the other rooms: `llm`, `evaluation`, `semantic_ids`, `recsys`.
Read first: `case.py` (what a case is), then `suite.py`.
"""
