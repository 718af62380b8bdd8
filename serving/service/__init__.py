"""`prelude serve`: a run behind HTTP, which answers many at once, takes events in, and says with which probability it drew.

May import: `serving.state`, `serving.engines`, `serving.answering`, `serving.config`, `serving/` (`user_state.py`), and `llm`, `evaluation`, `recsys`.
Read first: `served.py` (a loaded run and its events), then `batches.py` (many at once), then `app.py` (HTTP).
"""
