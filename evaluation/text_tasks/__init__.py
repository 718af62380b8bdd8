"""Figures of text tasks: accuracy, MAE, ROUGE, perplexity; their table.

May import: `evaluation/`, `evaluation.report`, `recsys`.
Read first: `results.py`.
"""
