"""Versions of the tables, each from the one before: Alembic reads them by their file.

May import: nothing of serving.
Read first: `v0001.py`.
"""
