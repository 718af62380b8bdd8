"""Tests of the configuration of a run."""
