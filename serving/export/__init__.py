"""A finished run elsewhere: what an export holds, how it is written, checked and imported; a LoRA for PEFT.

May import: `serving.config`, `serving.answering`, `serving.playlists` (whose plan says what a run answers with).
Read first: `plan.py`, then `folder.py`.
"""
