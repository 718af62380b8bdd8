"""Made data of any size with a structure that is known: what is learned from it can be held against what was planted.

May import: `recsys.artifacts` and `recsys/` (its `seeds.py`).
Read first: `planted.py` (what is planted, and its probabilities), then `write.py` (files, in streams).
"""
