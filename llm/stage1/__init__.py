"""Stage 1, `adapt`: the backbone learns to write semantic IDs and what they mean in words, and is frozen.

May import: `llm.backbone`, `llm.prompts`, `llm.decoding`.
Read first: `adapt.py`.
"""
