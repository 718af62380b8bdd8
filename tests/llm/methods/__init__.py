"""Tests of the methods of personalization that need no run."""
