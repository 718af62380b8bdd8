"""Tests of drawing, searching and scoring."""
