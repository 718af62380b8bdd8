"""What a run's files promise: hashes of artifacts, replacing files whole by a journal, whose rows are whose.

May import: `recsys.config`.
Read first: `manifest.py`; the run directory itself is `recsys/run.py`.
"""
