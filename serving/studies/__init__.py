"""Experiments on finished runs: methods over time, Online-Full, which IDs serve best, P2P apart, summaries.

May import: `serving.state`, `serving/` (`pipeline.py`), `serving.stages`, `serving.report`, `serving.answering`, `serving.config`, and the other rooms: `llm`,
`evaluation`, `semantic_ids`, `recsys`.
Read first: the module of the study.
"""
