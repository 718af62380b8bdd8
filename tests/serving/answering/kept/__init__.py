"""Tests of answering.kept requests and of absorbing feedback."""
