"""Tests of serving.answering."""
