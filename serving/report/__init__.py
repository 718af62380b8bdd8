"""What a run publishes: results.json with costs, report.html, the music section, pictures of experiments.

May import: `serving.stages`, `serving.answering`.
Read first: `publish.py`.
"""
