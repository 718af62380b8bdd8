"""Tests of evaluation: what they load is of this room and of recsys."""
