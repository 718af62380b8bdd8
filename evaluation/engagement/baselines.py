"""What the engagement predictor must beat: predictions that need no model, or one number an item shown.

Each is fitted on the PREDICTOR lists alone and gives p(engaged) [S] for the lists that are asked about.
"""

from __future__ import annotations

import numpy as np

from evaluation.engagement.features import ItemSpace, Shown, cosine

PRIOR_WEIGHT = 5.0  # shown items that the base rate counts as, where an item or a user has few of its own


def baseline_predictions(train: Shown, asked: Shown, space: ItemSpace) -> dict[str, np.ndarray]:
    """Name -> p(engaged) [S] of the items of `asked`. Its labels are not looked at."""
    from sklearn.linear_model import LogisticRegression

    base = float(train.labels.mean())
    owner = np.where(train.users < 0, -1, train.users)[train.list_of_item()]
    asked_owner = np.where(asked.users < 0, -1, asked.users)[asked.list_of_item()]
    found = {
        "base rate": np.full(len(asked.items), base),
        "the user's own rate": _rates(owner, train.labels, asked_owner, base),
        "the item's own rate": _rates(train.items, train.labels, asked.items, base),
    }
    for name, one in {
        "popularity alone": _popularity,
        "query–item match alone": _query_match,
        "user–item match alone": _user_match,
    }.items():
        model = LogisticRegression(C=np.inf, max_iter=1000).fit(one(train, space)[:, None], train.labels)
        found[name] = model.predict_proba(one(asked, space)[:, None])[:, 1]
    return found


def _rates(names: np.ndarray, labels: np.ndarray, asked: np.ndarray, base: float) -> np.ndarray:
    """The share engaged of each name, drawn towards the base rate;
    the base rate for −1 and for names never seen.
    """
    size = int(max(names.max(initial=-1), asked.max(initial=-1))) + 1
    there = names >= 0
    shown = np.bincount(names[there], minlength=size + 1)
    engaged = np.bincount(names[there], weights=labels[there], minlength=size + 1)
    rates = (engaged + PRIOR_WEIGHT * base) / (shown + PRIOR_WEIGHT)
    return rates[np.where(asked >= 0, asked, size)]  # one past the last name has never been shown


def _popularity(lists: Shown, space: ItemSpace) -> np.ndarray:
    return np.log1p(space.popularity.astype(float)[lists.items])


def _query_match(lists: Shown, space: ItemSpace) -> np.ndarray:
    return cosine(lists.query_vectors[lists.list_of_item()], space.text[lists.items])


def _user_match(lists: Shown, space: ItemSpace) -> np.ndarray:
    users = np.where(lists.known[:, None], lists.user_vectors, 0)
    return cosine(users[lists.list_of_item()], space.collaborative[lists.items])
