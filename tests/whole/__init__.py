"""Tests of whole runs, of the walls between the rooms, and of the documents."""
