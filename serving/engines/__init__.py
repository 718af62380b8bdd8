"""Work over processes and machines: every task once, whoever dies.

May import: `recsys/` (its `elsewhere.py` alone).
Read first: `base.py`; `choose.py` picks one of them by name.
"""
