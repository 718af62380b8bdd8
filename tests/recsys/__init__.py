"""Tests of recsys."""
