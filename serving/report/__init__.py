"""What a run publishes: results.json with costs, report.html, the music section, pictures of experiments.

May import: `serving.stages`, `serving.answering`, `serving.config`, `llm`, `evaluation`, `recsys`.
Read first: `publish.py`.
"""
