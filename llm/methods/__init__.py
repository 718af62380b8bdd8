"""Every way to personalize, one module and one configuration each; the stage `personalize` (Stage 2).

May import: `llm.stage1`, `llm.decoding`, `llm.prompts`, `llm.backbone`, `recsys`.
Read first: `catalogue.py` (their names), `base.py` (what each answers), `stage2.py` (what all share), then a
method.
"""
