"""Parameters of a user's own: OPPU trains them, PER-PCS assembles them from pieces that others shared.

May import: `llm.methods`, `llm.stage1`, `llm.decoding`, `llm.prompts`, `llm.backbone`, `recsys`.
Read first: `adapters.py`, then `oppu.py`.
"""
