"""The stages that need every room: combine, evaluate, music; their names and order.

May import: `serving.answering`, `serving.engines`, `serving.config`.
Read first: `names.py`, then `evaluate.py`.
"""
