"""Metrics, statistics, baselines, the evaluation job and its report.

May import: `recsys`. What it measures it knows through the Recommender protocol alone.
Read first: `metrics.py`, then `table/` (the job) and `report/`.
"""
