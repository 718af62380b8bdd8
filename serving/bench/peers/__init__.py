"""`make bench-peers`: other libraries beside Prelude, each in an environment of its own, one split, one evaluator.

May import: `serving.bench`, `serving.answering`, `serving.config`, and the other rooms: `llm`, `evaluation`, `semantic_ids`, `recsys`; what
runs in the peers' environments (`contract` and the scripts) imports no room.
Read first: `contract.py` (what a peer gets and leaves), then `catalogue.py`, then `driver.py`.
"""
