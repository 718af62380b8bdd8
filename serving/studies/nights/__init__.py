"""Simulated nights on data with real times, or on a made world: one model that is never refreshed, fed events, refreshed, or trained anew.

May import: `serving/` (`pipeline.py`), `serving.refresh`, `serving.answering`, `serving.config`, `evaluation.report`, `evaluation`, `recsys/` (`run.py`),
`recsys.data`, `recsys.artifacts`, `recsys.embeddings`, and the made worlds of `serving.bench.worlds`.
Read first: `world.py` (what is known on each night), then `arms.py` (what lives how), then `measure.py`.
"""
