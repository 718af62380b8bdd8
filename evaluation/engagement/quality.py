"""How good the engagement predictor is on lists it has not seen, and how much of that is about the user.

The unit of every interval is the user: a bootstrap draws users with replacement, with all their lists.
*Shuffled* gives each list the vector of another user, never its own: what AUC is left is about queries, items
and order, what is lost was personal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.engagement.baselines import baseline_predictions
from evaluation.engagement.features import ItemSpace, Shown
from evaluation.engagement.predictor import (
    EngagementPredictor,
    FittedPredictors,
    best_of_each,
    log_losses,
    loss_saved,
)
from evaluation.statistics import mean_interval, user_means
from recsys.embeddings.user_vectors import partners_of_other_users
from recsys.seeds import rng

BINS, PERMUTATIONS, SAMPLES = 10, 5, 1000
CALIBRATED_DRAWS = 200  # of labels, to say what calibration error chance alone makes


def predictor_quality(
    fitted: FittedPredictors,
    train: Shown,
    test: Shown,
    space: ItemSpace,
    seed: int,
    groups: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """All figures of the chosen predictor on the TEST lists, beside baselines fitted on `train` and the
    variants that were not chosen; ready for JSON. None where the data cannot say (one label, one user).

    `groups` names parts of the test, each a mask [Q] of lists (held-out queries, users without a vector).
    """
    p = fitted.chosen.predict(test, space)
    weights = bootstrap_weights(test, seed)
    others = baseline_predictions(train, test, space)
    variants = {name: one.predict(test, space) for name, one in fitted.variants.items()}
    return {
        "chosen": fitted.chosen.name,
        "n_lists": len(test),
        "n_users": weights.shape[1],
        "n_shown": len(p),
        "n_lists_of_unknown_users": int((~test.known).sum()),
        "n_lists_of_training_users": int(np.isin(test.users, train.users[train.users >= 0]).sum()),
        "share_engaged": float(test.labels.mean()),
        **scores(p, test.labels),
        "auc_ci95": _interval(auc_samples(p, test, weights)),
        "ece_by_chance": chance_calibration_error(p, rng(seed, "chance")),
        "reliability": reliability(p, test, weights),
        "within_list": within_list(p, test),
        "shuffled": shuffled(fitted.chosen, test, space, weights, seed),
        "order": _order(fitted, variants, test),
        "variants": [row | {"test": scores(variants[row["name"]], test.labels)} for row in fitted.comparison],
        "baselines": [
            {"name": name} | scores(q, test.labels) | loss_saved(p, q, test) for name, q in others.items()
        ],
        "groups": [
            {"name": name, "n_lists": int(mask.sum())} | scores(p[rows], test.labels[rows])
            for name, mask in (groups or {}).items()
            if (rows := np.asarray(mask, bool)[test.list_of_item()]).any()
        ],
    }


def scores(p: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """AUC (None with one label only), log loss (nats),
    Brier score and expected calibration error of p [S].
    """
    return {
        "auc": None if labels.all() or not labels.any() else auc(p, labels),
        "log_loss": float(log_losses(p, labels).mean()),
        "brier": float(((p - labels) ** 2).mean()),
        "ece": calibration_error(p, labels),
    }


def _order(fitted: FittedPredictors, variants: Mapping[str, np.ndarray], test: Shown) -> dict[str, Any]:
    """What the order says: the order-aware variant that validation likes best against the order-free one."""
    free, aware = best_of_each(fitted.comparison)
    return {"order_free": free, "order_aware": aware} | loss_saved(variants[aware], variants[free], test)


def auc(p: np.ndarray, labels: np.ndarray) -> float:
    """The chance that an engaged item stands above one that is not; equal scores count half.
    NaN without both.
    """
    return float(_weighted_aucs(p, labels, np.ones((1, 1)), np.zeros(len(p), np.int64))[0])


def bootstrap_weights(shown: Shown, seed: int, samples: int = SAMPLES) -> np.ndarray:
    """How often each user [samples, U] is drawn; users as in `Shown.units`."""
    users = int(shown.units().max()) + 1
    return rng(seed, "predictor bootstrap").multinomial(users, np.full(users, 1 / users), size=samples)


def auc_samples(p: np.ndarray, shown: Shown, weights: np.ndarray) -> np.ndarray:
    """AUC [samples] of each bootstrap sample of users; NaN where it drew one label only."""
    return _weighted_aucs(p, shown.labels, weights, shown.units()[shown.list_of_item()])


def _weighted_aucs(p: np.ndarray, labels: np.ndarray, weights: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """AUCs [B] with item s counted weights[b, unit[s]] times: Σ over distinct scores of
    engaged · (others below + half of those level), by sums over the sorted scores.
    """
    level = np.unique(p, return_inverse=True)[1]
    n = int(level.max(initial=-1)) + 1
    found = np.full(len(weights), np.nan)
    for sample, weight in enumerate(weights):
        counted = weight[unit].astype(float)
        engaged = np.bincount(level, counted * labels, n)
        other = np.bincount(level, counted * ~labels, n)
        pairs = engaged.sum() * other.sum()
        if pairs > 0:
            found[sample] = (engaged * (np.cumsum(other) - other / 2)).sum() / pairs
    return found


def quantile_bins(p: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin [S] of each prediction: about as many in each; equal predictions are never parted,
    so fewer where they are many.
    """
    edges = np.quantile(p, np.arange(1, bins) / bins)
    return np.unique(np.searchsorted(edges, p, side="left"), return_inverse=True)[1]


def calibration_error(p: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error: Σ over bins of (share of the items) · |mean p − share engaged|."""
    place = quantile_bins(p)
    return float(np.abs(np.bincount(place, weights=p - labels)).sum() / len(p))


def chance_calibration_error(p: np.ndarray, generator: np.random.Generator) -> float:
    """The mean calibration error if every p were exactly right: what is not zero by chance alone."""
    place = quantile_bins(p)
    draws = (np.bincount(place, weights=p - (generator.random(len(p)) < p)) for _ in range(CALIBRATED_DRAWS))
    return float(np.mean([np.abs(sums).sum() for sums in draws]) / len(p))


def reliability(p: np.ndarray, shown: Shown, weights: np.ndarray) -> list[dict[str, Any]]:
    """One row a quantile bin: its bounds, items, mean prediction and share engaged,
    with the bootstrap interval over users of the share.
    """
    place = quantile_bins(p)
    bins = int(place.max()) + 1
    cell = shown.units()[shown.list_of_item()] * bins + place
    counts = np.bincount(cell, minlength=weights.shape[1] * bins).reshape(-1, bins)
    engaged = np.bincount(cell, shown.labels, weights.shape[1] * bins).reshape(-1, bins)
    drawn = weights @ counts
    shares = np.divide(weights @ engaged, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    return [
        {
            "low": float(p[place == at].min()),
            "high": float(p[place == at].max()),
            "n": int((place == at).sum()),
            "predicted": float(p[place == at].mean()),
            "observed": float(shown.labels[place == at].mean()),
            "observed_ci95": _interval(shares[:, at]),
        }
        for at in range(bins)
    ]


def within_list(p: np.ndarray, shown: Shown) -> dict[str, Any]:
    """Mean AUC inside the lists that have both labels (each user's lists are averaged first):
    nothing that all items of a list share, its query and its user, can raise it.
    With another user's vector see `shuffled`.
    """
    return _list_mean(list_aucs(p, shown), shown)


def _list_mean(values: np.ndarray, shown: Shown) -> dict[str, Any]:
    there = ~np.isnan(values)
    if not there.any():
        return {"auc": None, "auc_ci95": None, "n_lists": 0}
    means = user_means(values[there], shown.units()[there])[1]
    bounds = mean_interval(means)
    return {
        "auc": float(means.mean()),
        "auc_ci95": None if bounds is None else list(bounds),
        "n_lists": int(there.sum()),
    }


def list_aucs(p: np.ndarray, shown: Shown) -> np.ndarray:
    """AUC [Q] inside each list; NaN without both labels."""
    values = np.full(len(shown), np.nan)
    for row, (start, end) in enumerate(zip(shown.offsets[:-1], shown.offsets[1:], strict=True)):
        mine, labels = p[start:end], shown.labels[start:end]
        above = mine[labels][:, None] - mine[~labels][None]
        if above.size:
            values[row] = ((above > 0) + 0.5 * (above == 0)).mean()
    return values


def shuffled(
    predictor: EngagementPredictor, test: Shown, space: ItemSpace, weights: np.ndarray, seed: int
) -> dict[str, Any] | None:
    """AUC of the lists whose user has a vector, with it and with another user's (mean of five permutations),
    and what is lost. None with fewer than two such users.
    """
    has = np.flatnonzero(test.known)
    if len(np.unique(test.units()[has])) < 2:
        return None
    lists = test.take(has)
    own = predictor.predict(lists, space)
    if lists.labels.all() or not lists.labels.any():
        return None
    aucs, samples, inside = [], [], []
    kept = weights[:, np.unique(test.units()[has])]
    for permutation in range(PERMUTATIONS):
        partner = partners_of_other_users(lists.units(), rng(seed, "shuffled users", permutation))
        p = predictor.predict(lists.with_user_vectors(lists.user_vectors[partner], lists.known), space)
        aucs.append(auc(p, lists.labels))
        samples.append(auc_samples(p, lists, kept))
        inside.append(list_aucs(p, lists))
    return {
        "n_lists": len(lists),
        "permutations": PERMUTATIONS,
        "auc_own": auc(own, lists.labels),
        "auc_shuffled": float(np.mean(aucs)),
        "auc_shuffled_each": aucs,
        "lost": auc(own, lists.labels) - float(np.mean(aucs)),
        "lost_ci95": _interval(auc_samples(own, lists, kept) - np.mean(samples, axis=0)),
        "within_list_own": _list_mean(list_aucs(own, lists), lists)["auc"],
        "within_list_shuffled": _list_mean(np.mean(inside, axis=0), lists)["auc"],
    }


def _interval(samples: np.ndarray) -> list[float] | None:
    """The middle 95 % of the bootstrap samples that are defined."""
    samples = samples[~np.isnan(samples)]
    return None if len(samples) < 2 else np.quantile(samples, [0.025, 0.975]).tolist()
