"""Tests of reading, splitting and preparing interactions."""
