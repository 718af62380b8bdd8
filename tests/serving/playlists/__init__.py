"""Tests of playlist runs."""
