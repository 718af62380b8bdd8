"""Tests of the stages that serving adds to a run."""
