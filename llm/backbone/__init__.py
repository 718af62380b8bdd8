"""The language model itself: loading and freezing it, rows for semantic IDs, packed passes, soft tokens.

May import: `semantic_ids`, `recsys`; nothing of `llm` (so with every folder here: what is below, and the two rooms).
Read first: `load.py`, then `sid_model.py` (log p(item | prompt) inside the trie).
"""
