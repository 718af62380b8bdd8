"""Tests of what commands print and refuse."""
