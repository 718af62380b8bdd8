"""Interactions, histories, user and item embeddings, and the run directory that everything else stands on."""
