"""Tasks of text in the formats of LaMP, LongLaMP, PENS and dialogues, or made from the interactions at hand.

May import: `recsys/`, `recsys.artifacts`, `recsys.data`, `recsys.door`.
Read first: `instances.py`.
"""
