"""Tests of what a run's files promise, and of what others' files may not do."""
