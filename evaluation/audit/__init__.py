"""What lists do to people and to the catalogue, beyond accuracy; and what becomes of it when people choose from them.

May import: `evaluation/`, `evaluation.report`, `evaluation.table`, `recsys`.
Read first: `measures.py` (the definitions), then `audit.py`; `loop.py` is the feedback loop.
"""
