"""Tests of labelled lists."""
