"""Tests of embeddings of users and items."""
