"""What a service keeps of people, lists and keys: tables in SQLite or PostgreSQL, written by groups, migrated by Alembic.

May import: nothing of serving; `evaluation`, `recsys`.
Read first: `tables.py` (what is kept), then `store.py` (how it is opened and written).
"""
