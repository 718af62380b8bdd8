"""The settings of a whole run: one object, one YAML file, every field with a default, a unit and a reason.

May import: the settings of the other rooms: `llm`, `evaluation`, `semantic_ids`, `recsys`; nothing of serving.
Read first: `run.py`; a stage's settings stand beside it (`recsys/data/config.py`, `llm/stage1/config.py`, `llm/methods/personalize.py`).
"""
