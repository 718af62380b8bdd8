"""The feedback loop on a finished run: arms that show and learn, people that choose, figures over seeds.

May import: `serving.studies`, `serving.stages`, `serving.answering`, `serving.config`, `serving.bench.worlds`, and the other rooms: `llm`, `evaluation`, `recsys`.
Read first: `study.py`, then `arms.py`.
"""
