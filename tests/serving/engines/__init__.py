"""Tests of the engines that do work."""
