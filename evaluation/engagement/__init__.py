"""The engagement predictor: features of a shown list, models, training, and how far it can be believed.

May import: the modules of `evaluation/`, `recsys.engagement`.
Read first: `predictor.py`, then `quality.py`.
"""
