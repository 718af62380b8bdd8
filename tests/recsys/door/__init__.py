"""Tests of the door: formats, ids, times, vectors, and that nothing vanishes uncounted."""
