"""Tests of learning from feedback: objectives, targets, settings."""
