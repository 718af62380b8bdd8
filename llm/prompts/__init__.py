"""What the model reads of a request: recent items, text profiles, records, the query.

May import: `llm.backbone`, `recsys`.
Read first: `builder.py`; `reading.py` says how a method reads.
"""
