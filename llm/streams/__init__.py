"""Methods while time goes on: feedback absorbed by chunks (`prelude online`), drift (`prelude drift`).

May import: `llm.methods` and what that may.
Read first: `online.py`.
"""
