"""The same prefixes on tasks of text: the backbone as a text model, and its training.

May import: `llm.backbone`, `llm.methods`.
Read first: `model.py`.
"""
