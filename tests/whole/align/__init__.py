"""Tests of the stage `align` on a run."""
