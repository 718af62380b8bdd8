"""Tests of methods of personalization on a run."""
