"""Training that resumes: the loop that every learner runs in, several processes at it, and devices.

May import: `recsys/` (but `run.py`), `recsys.artifacts`.
Read first: `loop.py`.
"""
