"""P2P (Profile-to-PEFT): a hypernetwork that reads a profile text and emits a LoRA.

May import: `llm.methods` and what that may.
Read first: `method.py`.
"""
