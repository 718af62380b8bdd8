"""Tests of the music task of a run."""
