"""The endpoints of the API, a module a subject.

May import: `serving.service`, `serving.state`, `serving.answering`, `serving/` (`user_state.py`), `recsys`.
Read first: `recommend.py`.
"""
