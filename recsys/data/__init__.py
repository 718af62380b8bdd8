"""From checked tables to events with roles: the catalogue, filters, splits, the stage `prepare`.

Beside it stands ml-latest-small, the embedded data set, with its licence.
May import: `recsys/`, `recsys.artifacts`, `recsys.door`, `recsys.training`.
Read first: `interactions.py` (checked events), then `dataset.py` (histories), then `prepare.py` (the stage).
"""
