"""Tests of what Stage 1 learns from."""
