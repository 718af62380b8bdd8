"""The frozen language model that writes semantic IDs, and the ways to condition it on a user.

May import: `recsys`, `semantic_ids`.
Read first: `backbone/sid_model.py`, then `prompts/builder.py`, then `decoding/`, then `methods/`.
"""
