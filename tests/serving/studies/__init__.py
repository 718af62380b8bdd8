"""Tests of the studies that compare runs."""
