"""P2P (Profile-to-PEFT): a hypernetwork that reads a profile text and emits a LoRA.

May import: `llm.methods`, `llm.stage1`, `llm.decoding`, `llm.prompts`, `llm.backbone`, `recsys`.
Read first: `method.py`.
"""
