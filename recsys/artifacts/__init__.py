"""What a run's files promise: hashes of artifacts, replacing files whole by a journal, whose rows are whose.

May import: `recsys/` (the modules that stand in the room itself, but `run.py`).
Read first: `manifest.py`; the run directory itself is `recsys/run.py`.
"""
