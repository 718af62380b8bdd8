"""Methods while time goes on: feedback absorbed chunk by chunk (`prelude online`), embeddings that drift (`prelude drift`).

May import: `llm.methods` and what that may.
Read first: `online.py`.
"""
