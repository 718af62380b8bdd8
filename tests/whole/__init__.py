"""Tests of all rooms together: whole runs, the rooms themselves, several processes."""
