"""From a raw file to events with roles: the door, the catalogue, filters, splits, the stage `prepare`.

Beside it stands ml-latest-small, the embedded data set, with its licence.
May import: `recsys.artifacts`, `recsys.training`, `recsys.run`, `recsys.recommender`.
Read first: `interactions.py` (the door), then `dataset.py` (histories), then `prepare.py` (the stage).
"""
