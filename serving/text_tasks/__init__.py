"""`prelude task`: text tasks from data to table on the frozen backbone.

May import: `serving.config`, `llm`, `evaluation`, `recsys`.
Read first: `tasks.py`.
"""
