"""Tests of the music table."""
