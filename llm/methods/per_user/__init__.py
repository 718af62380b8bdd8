"""Parameters of a user's own: OPPU trains them, PER-PCS assembles them from pieces that others shared.

May import: `llm.methods` and what that may.
Read first: `adapters.py`, then `oppu.py`.
"""
