"""Tests of recsys: what they load is of this room alone."""
