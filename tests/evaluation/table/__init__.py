"""Tests of the evaluation job and of its table."""
