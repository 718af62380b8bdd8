"""Work over processes and machines: every task once, whoever dies.

May import: `recsys/` (its `elsewhere.py`); nothing of serving.
Read first: `base.py`; `choose.py` picks one of them by name.
"""
