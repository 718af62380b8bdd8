"""Tests of the backbone and of passes through it."""
