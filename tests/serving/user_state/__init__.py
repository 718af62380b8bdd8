"""Tests of what a run holds of a person, and of its deletion."""
