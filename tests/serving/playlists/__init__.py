"""Tests of serving.playlists."""
