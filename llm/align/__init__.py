"""The stage `align`: prefixes learn from labelled lists by likelihood, by E2P's equation (5), by KTO.

May import: `llm.methods` and all below it, `llm.stage1`, `llm.decoding`, `llm.prompts`, `llm.backbone`, `recsys`.
Read first: `objectives.py`, then `align.py` (the stage).
"""
