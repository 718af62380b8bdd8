"""Tests of `prelude value`."""
