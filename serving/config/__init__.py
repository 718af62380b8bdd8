"""The settings of a whole run: one object, one YAML file, every field with a default, a unit and a reason.

May import: the `config.py` of every room; nothing of serving.
Read first: `run.py`.
"""
