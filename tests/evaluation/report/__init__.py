"""Tests of the report: its sentences, its page in a real browser, and the end of a run on the terminal."""
