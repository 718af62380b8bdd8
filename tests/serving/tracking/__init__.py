"""Tests of what another policy would have earned."""
