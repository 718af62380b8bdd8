"""Worlds that differ in what must not matter, what a run over one has learned, and leaks to plant."""
