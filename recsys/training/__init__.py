"""Training that resumes: the loop that every learner here runs in, several processes at one training, and devices.

May import: `recsys.seeds`, `recsys.artifacts`.
Read first: `loop.py`.
"""
