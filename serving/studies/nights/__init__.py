"""Simulated nights on data with real times: one model that is never refreshed, fed events, refreshed, or trained anew.

May import: `serving/` (`pipeline.py`), `serving.refresh`, `serving.answering`, `serving.config`, `evaluation.report`, `evaluation`, `recsys/` (`run.py`),
`recsys.data`, `recsys.artifacts`.
Read first: `world.py` (what is known on each night), then `arms.py` (what lives how), then `measure.py`.
"""
