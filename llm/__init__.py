"""The frozen language model that writes semantic IDs, and the ways to condition it on a user."""
