"""Semantic IDs: RQ-VAE and residual k-means, the unique item ↔ codes table, and the trie."""
