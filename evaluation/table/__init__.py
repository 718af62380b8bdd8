"""The table: rows measured on the test instances, compared in pairs, broken down, written to results.json.

May import: `evaluation/` (its modules, not its folders), `recsys`.
Read first: `rows.py` and `config.py`, then `job.py`.
"""
