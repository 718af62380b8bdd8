"""The music table: lists for test queries by every row, judged by predicted engagement and by affinity.

May import: `evaluation/`, `evaluation.engagement`, `evaluation.report`, `evaluation.table`, `recsys`.
Read first: `metrics.py`, then `table.py`.
"""
