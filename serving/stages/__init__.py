"""The stages that need every room: combine, evaluate, music; their names and order.

May import: `serving.answering`, `serving.engines`, `serving.config`, `llm`, `evaluation`, `recsys`.
Read first: `names.py`, then `evaluate.py`.
"""
