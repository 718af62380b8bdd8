"""Leaks found by construction: runs over worlds that differ in what must not matter, and planted leaks."""
