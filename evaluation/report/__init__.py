"""What people read: the table in the terminal, report.html, and its pictures.

May import: `evaluation/`, `evaluation.table`, `recsys`.
Read first: `report.py`.
"""
