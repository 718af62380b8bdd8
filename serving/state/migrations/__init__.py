"""The tables' history: Alembic's environment, and one module a version in `versions/`.

May import: `serving.state`.
Read first: `env.py`.
"""
