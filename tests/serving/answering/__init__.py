"""Tests of answering requests and of absorbing feedback."""
