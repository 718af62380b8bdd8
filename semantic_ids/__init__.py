"""Semantic IDs: RQ-VAE and residual k-means, the unique item ↔ codes table, and the trie.

May import: `recsys`.
Read first: `table.py` (an item's codes), then `trie.py`, then `tokenize_items.py` (the stage).
"""
