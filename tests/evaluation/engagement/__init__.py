"""Tests of the engagement predictor."""
