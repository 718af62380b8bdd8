"""Tests of the service behind HTTP."""
