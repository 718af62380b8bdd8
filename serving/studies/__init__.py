"""Experiments on finished runs: methods over time, Online-Full, which IDs serve best, P2P apart, summaries.

May import: `serving.config`, `serving.answering`, `serving.stages`, `serving.report`, `serving.pipeline`.
Read first: the module of the study.
"""
