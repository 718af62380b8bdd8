"""Tests of semantic IDs: what they load is of this room and of recsys."""
