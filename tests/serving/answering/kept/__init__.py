"""Tests of what feedback has left in a state, and of what earlier versions kept."""
