"""A stand-in for the listener: p(engaged | user, query, item), fitted on lists no generator has trained on.

E2P's appendix A gives its predictor the user's embedding, the query text and the tracks; its F.1 leaves the
user out. Without the user a proxy cannot see personalization, so ours has it. The paper's label is of a
playlist (it was saved), ours of a shown item: a list's predicted engagement is the mean over its items.

    PREDICTOR lists              fit every variant: 3 families, order-free and order-aware
    PREDICTOR_VALIDATION lists   half of their users stop and choose, the other half calibrates; the
                                 order-aware reading is chosen only where it is surely better, for a
                                 generated list's order is another kind
    TEST lists                   are looked at by `evaluation.engagement.quality`, and by nothing here

What it cannot say: it was fitted on items that were shown.
How it judges items that nobody would have shown is extrapolation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from evaluation.engagement.features import AskedLists, FeatureMaker, ItemSpace, Shown, flat_lists
from evaluation.engagement.models import FAMILIES, Arrays, Examples, fit, logits, probability
from evaluation.statistics import paired_test, user_means
from recsys.door.tables import DataError
from recsys.seeds import rng

FORMAT = 1
ANONYMOUS_SHARE = 0.3  # of the training lists are read a second time without their user's vector
ROWS_AT_ONCE = 20_000  # of features: 40 MB
SMALLEST_P = 1e-7  # log loss of a p of 0 would be infinite
MODEL, METADATA = "model.", "predictor"


@dataclass(frozen=True, eq=False)
class EngagementPredictor:
    """One fitted, calibrated variant. p = σ(slope · logit + intercept) (Platt 1999)."""

    family: str
    order_aware: bool
    maker: FeatureMaker
    arrays: Arrays
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        return variant_name(self.family, self.order_aware)

    def predict(self, lists: AskedLists, space: ItemSpace) -> np.ndarray:
        """p(engaged) [S] of every item of every list."""
        found = [np.zeros(0)]
        for start, end in _chunks(lists.offsets):
            part = _slice(lists, start, end)
            raw = logits(self.family, self.arrays, self.maker.features(part, space, self.order_aware))
            found.append(probability(self.slope * raw + self.intercept))
        return np.concatenate(found)

    def predict_lists(
        self,
        user_vectors: np.ndarray,
        known: np.ndarray,
        query_vectors: np.ndarray,
        lists: np.ndarray,
        space: ItemSpace,
    ) -> np.ndarray:
        """Predicted engagement [R] of generated lists [R, n], filled up with −1:
        the mean of p over a list's items.

        `user_vectors` [R, d], `known` [R] (False: a user without a vector), `query_vectors` [R, e].
        A list without an item has no engagement to predict: NaN.
        """
        offsets, items = flat_lists(lists)
        asked = AskedLists(user_vectors, np.asarray(known, bool), query_vectors, offsets, items)
        p = self.predict(asked, space)
        counts = np.diff(offsets)
        sums = np.bincount(asked.list_of_item(), weights=p, minlength=len(asked))
        return np.divide(sums, counts, out=np.full(len(asked), np.nan), where=counts > 0)

    def save(self, path: Path) -> None:
        """Write one safetensors file; `load` gives the same predictions to the bit."""
        facts = {"format": FORMAT, "family": self.family, "order_aware": self.order_aware,
                 "slope": self.slope, "intercept": self.intercept}  # fmt: skip
        tensors = {MODEL + name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        tensors["collaborative_directions"] = self.maker.collaborative_directions
        tensors["text_directions"] = self.maker.text_directions
        temporary = path.with_name(path.name + ".new")
        save_file(tensors, str(temporary), metadata={METADATA: json.dumps(facts)})
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> EngagementPredictor:
        """What `save` wrote. Raises `DataError` for a file that is no predictor, or of another format."""
        with safe_open(str(path), framework="np") as file:
            facts = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            if facts.pop("format", None) != FORMAT:
                raise DataError(
                    f"{path} is not an engagement predictor of this version; fit it again on its lists"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        maker = FeatureMaker(tensors.pop("collaborative_directions"), tensors.pop("text_directions"))
        arrays = {name.removeprefix(MODEL): array for name, array in tensors.items()}
        return cls(maker=maker, arrays=arrays, **facts)


@dataclass(frozen=True, eq=False)
class FittedPredictors:
    """Every variant by name, what validation saw of them (ready for JSON, best first),
    and the name that it chose.
    """

    variants: dict[str, EngagementPredictor]
    comparison: list[dict[str, Any]]
    chosen_name: str

    @property
    def chosen(self) -> EngagementPredictor:
        return self.variants[self.chosen_name]


@threadpool_limits.wrap(limits=1)
def fit_predictors(train: Shown, validation: Shown, space: ItemSpace, seed: int) -> FittedPredictors:
    """Fit all variants on `train`; calibrate each on one half of the users of `validation`,
    choose by log loss on the other.

    Order-free is the rule: an order-aware variant is chosen where the 95 % interval over users of what it
    saves against the best order-free one is above 0. One thread: sums split over threads differ in their last
    bits, and a tree would split elsewhere.

    Raises `DataError` where a part lacks a label or `validation` holds a single user.
    """
    maker = FeatureMaker.of(space)
    choosing, calibrating = halves_by_user(validation, seed)
    for name, part in {
        "training": train,
        "choosing half": choosing,
        "calibrating half": calibrating,
    }.items():
        if len(part.labels) == 0 or part.labels.all() or not part.labels.any():
            raise DataError(
                f"the engagement predictor's {name} has {int(part.labels.sum())} engaged of "
                f"{len(part.labels)} shown items; it needs both kinds: give it more lists"
            )
    train = with_anonymous_copies(train, seed)
    variants: dict[str, EngagementPredictor] = {}
    for order_aware in (False, True):
        learn, choose, calibrate = (
            Examples(maker.features(part, space, order_aware), part.labels)
            for part in (train, choosing, calibrating)
        )
        for family in FAMILIES:
            arrays = fit(family, learn, choose, seed)
            slope, intercept = platt(logits(family, arrays, calibrate.features), calibrate.labels)
            one = EngagementPredictor(family, order_aware, maker, arrays, slope, intercept)
            variants[one.name] = one
    return _chosen(variants, choosing, space)


def _chosen(variants: dict[str, EngagementPredictor], choosing: Shown, space: ItemSpace) -> FittedPredictors:
    from sklearn.metrics import roc_auc_score

    p = {name: one.predict(choosing, space) for name, one in variants.items()}
    comparison: list[dict[str, Any]] = [
        {
            "name": name,
            "order_aware": one.order_aware,
            "log_loss": float(log_losses(p[name], choosing.labels).mean()),
            "auc": float(roc_auc_score(choosing.labels, p[name])),
        }
        for name, one in variants.items()
    ]
    comparison.sort(key=lambda row: row["log_loss"])
    free, aware = best_of_each(comparison)
    gain = loss_saved(p[aware], p[free], choosing)["log_loss_saved_ci95"]
    return FittedPredictors(variants, comparison, aware if gain is not None and gain[0] > 0 else free)


def best_of_each(comparison: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Names of the best order-free and the best order-aware variant, of rows that are sorted best first."""
    free, aware = (
        next(row["name"] for row in comparison if row["order_aware"] == wanted) for wanted in (False, True)
    )
    return free, aware


def loss_saved(p: np.ndarray, q: np.ndarray, shown: Shown) -> dict[str, Any]:
    """Log loss (nats) of q minus that of p, a mean over users,
    with the 95 % interval of the paired difference.
    """
    unit = shown.units()[shown.list_of_item()]
    of_q, of_p = (user_means(log_losses(one, shown.labels), unit)[1] for one in (q, p))
    test = paired_test(of_q, of_p)
    return {
        "log_loss_saved": test.difference,
        "log_loss_saved_ci95": None if test.interval is None else list(test.interval),
    }


def log_losses(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log loss [S] (nats) of each prediction."""
    p = np.clip(p, SMALLEST_P, 1 - SMALLEST_P)
    return -np.log(np.where(labels, p, 1 - p))


def variant_name(family: str, order_aware: bool) -> str:
    return f"{family}, {'order-aware' if order_aware else 'order-free'}"


def with_anonymous_copies(shown: Shown, seed: int) -> Shown:
    """The lists, and a random part of them once more without their user's vector:
    a user without one is a trained mode.

    Otherwise the zero in place of u·v reads as a user who likes nothing.
    """
    copies = np.flatnonzero(rng(seed, "anonymous").random(len(shown)) < ANONYMOUS_SHARE)
    doubled = shown.take(np.concatenate([np.arange(len(shown)), copies]))
    stays = doubled.known & (np.arange(len(doubled)) < len(shown))
    return doubled.with_user_vectors(doubled.user_vectors, stays)


def halves_by_user(shown: Shown, seed: int) -> tuple[Shown, Shown]:
    """Two parts that share no user, of about as many lists each."""
    unit = shown.units()
    counts = np.bincount(unit)
    if len(counts) < 2:
        raise DataError(
            "the engagement predictor is chosen and calibrated on different users; validation has "
            f"{len(counts)} user: give it lists of at least two"
        )
    order = rng(seed, "halves").permutation(len(counts))
    first = np.cumsum(counts[order]) * 2 <= len(shown)
    first[0], first[-1] = True, False
    in_first = np.isin(unit, order[first])
    return shown.take(np.flatnonzero(in_first)), shown.take(np.flatnonzero(~in_first))


def platt(raw: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of σ(slope · logit + intercept) by maximum likelihood.

    The order is never turned round: where the logits say less than nothing the slope is 0,
    and p is the base rate.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8).fit(raw[:, None], labels)
    slope = float(model.coef_[0, 0])
    if slope > 0:
        return slope, float(model.intercept_[0])
    return 0.0, float(np.log(labels.mean() / (1 - labels.mean())))


def _chunks(offsets: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of whole lists with about ROWS_AT_ONCE items each."""
    cuts = np.searchsorted(offsets, np.arange(ROWS_AT_ONCE, offsets[-1], ROWS_AT_ONCE))
    ends = np.unique([0, *cuts, len(offsets) - 1])
    return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def _slice(lists: AskedLists, start: int, end: int) -> AskedLists:
    offsets = lists.offsets[start : end + 1]
    return AskedLists(
        lists.user_vectors[start:end],
        lists.known[start:end],
        lists.query_vectors[start:end],
        offsets - offsets[0],
        lists.items[offsets[0] : offsets[-1]],
    )
