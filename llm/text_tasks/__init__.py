"""The same prefixes on tasks of text: the backbone as a text model, and its training.

May import: `llm.methods`, `llm.prompts`, `llm.backbone`, `recsys`.
Read first: `model.py`.
"""
