"""From a prompt to items: draws, lists in sequence and exact scores, all inside the trie.

May import: `llm.prompts`, `llm.backbone`, `semantic_ids`, `recsys`.
Read first: `session.py`, then `draws.py` and `scoring.py`; `recommender.py` answers requests by them.
"""
