"""The door: every table that comes from outside is read here, by one rule for ids, times, blanks and types.

Files, folders, compressed files, RecBole's atomic files and `datasets` folders become a `Table`; its columns become ids,
times, numbers and vectors, or a `DataError` that names the place. What was left out is counted (`notices.py`).
May import: `recsys/` (its `terminal.py` and `elsewhere.py` alone).
Read first: `sources.py`, then `values.py`.
"""
