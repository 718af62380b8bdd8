"""Tests of serving, which may load every room; most stand on the small run."""
