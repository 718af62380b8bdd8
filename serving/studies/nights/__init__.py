"""Simulated nights on data with real times: one model that is never refreshed, fed events, refreshed, or trained anew.

May import: `serving.refresh`, `serving.answering`, `serving.commands` by their names alone (as processes); `evaluation`, `recsys`.
Read first: `world.py` (what is known on each night), then `arms.py` (what lives how), then `measure.py`.
"""
