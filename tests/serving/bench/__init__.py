"""Tests of made worlds and of growth."""
