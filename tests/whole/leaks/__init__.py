"""A leak is found by construction: whole runs over worlds that differ in what must not matter, and planted leaks."""
