"""Tests of the text tasks and of their files."""
