"""What people read: the table in the terminal, report.html, and its pictures.

May import: `evaluation.table`, the modules of `evaluation/`.
Read first: `report.py`.
"""
