"""A finished run elsewhere: what an export holds, how it is written, checked and imported; a LoRA for PEFT.

May import: `serving.state`, `serving.playlists` (whose plan says what a run answers with), `serving.answering`, `serving.config`, `llm`, `recsys`.
Read first: `plan.py`, then `folder.py`.
"""
