"""Runs against each other: the same instances or none, paired tests, curves over each other, a page.

May import: `evaluation/`, `evaluation.report`, `evaluation.table`, `recsys`.
Read first: `measured.py` (are the test sets one?), then `paired.py`.
"""
