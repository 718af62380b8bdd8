"""Stage 1, `adapt`: the backbone learns to write semantic IDs and what they mean in words, and is frozen.

May import: `llm.decoding`, `llm.prompts`, `llm.backbone`, `semantic_ids`, `recsys`.
Read first: `adapt.py`.
"""
