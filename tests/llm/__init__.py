"""Tests of llm: what they load is of this room, of semantic_ids and of recsys."""
