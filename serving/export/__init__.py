"""A finished run elsewhere: what an export holds, how it is written, checked and imported; a LoRA for PEFT.

May import: `serving.answering`.
Read first: `plan.py`, then `folder.py`.
"""
