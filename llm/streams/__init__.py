"""Methods while time goes on: feedback absorbed by chunks (`prelude online`), drift (`prelude drift`).

May import: `llm.methods`, `llm.stage1`, `llm.decoding`, `llm.prompts`, `llm.backbone`, `recsys`.
Read first: `online.py`.
"""
