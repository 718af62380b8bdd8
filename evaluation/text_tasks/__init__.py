"""Figures of text tasks: accuracy, MAE, ROUGE, perplexity; their table.

May import: the modules of `evaluation/`.
Read first: `results.py`.
"""
