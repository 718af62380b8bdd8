"""Experiments on finished runs: methods over time, which IDs serve best, P2P taken apart, profile summaries.

May import: `serving.answering`, `serving.stages`, `serving.report`.
Read first: the module of the study.
"""
