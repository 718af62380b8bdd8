"""Tests, in the rooms of what they test; `whole` is of all rooms together, `support` is what they share."""
