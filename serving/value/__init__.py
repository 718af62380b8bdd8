"""`prelude value`: what another method, temperature or strength would have earned, from the lists that a service has shown.

May import: `serving.service`, `serving.state`, `serving.answering`, `evaluation`, `recsys`.
Read first: `job.py`.
"""
