"""`make bench-peers`: other libraries beside Prelude, each in an environment of its own, one split, one evaluator.

May import: `serving.bench` (the machine), `serving.answering`, `serving.config`, `evaluation`, `recsys`; what runs elsewhere, nothing.
Read first: `contract.py` (what a peer gets and leaves), then `catalogue.py`, then `driver.py`.
"""
