"""Tests of a service's database."""
