"""The language model itself: loading and freezing it, rows for semantic IDs, packed passes, soft tokens.

May import: `semantic_ids`, `recsys`.
Read first: `load.py`, then `sid_model.py` (log p(item | prompt) inside the trie).
"""
