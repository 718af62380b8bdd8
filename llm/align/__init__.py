"""The stage `align`: prefixes learn from labelled lists by likelihood, by E2P's equation (5), by KTO.

May import: `llm.methods` and what that may.
Read first: `objectives.py`, then `align.py` (the stage).
"""
