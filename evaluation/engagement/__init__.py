"""The engagement predictor: features of a shown list, models, training, and how far it can be believed.

May import: `evaluation/`, `evaluation.report`, `recsys`.
Read first: `predictor.py`, then `quality.py`.
"""
