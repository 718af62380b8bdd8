"""The audit of a row's lists: every figure of `measures`, for everybody and for groups of people and of items.

Intervals are 95 %, of a bootstrap over people (each has one list). Of figures that a number of people moves by itself, coverage and
Gini, those of everybody are shifted by what resampling alone does to them; groups are compared as of equally many people, half of the
smallest group, drawn without replacement, and the interval is that of such draws (wider than that of their mean, which is the figure).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.audit import measures
from evaluation.metrics import hits
from recsys.seeds import rng

if TYPE_CHECKING:
    from scipy import sparse

RESAMPLES, RECOUNTS = 1000, 200  # of people: for means, and for figures that count items anew each time
FEWEST = 20  # people in a group, and targets in a group of items, of which something is said
LEVEL = 0.05
ROUNDING = 1e-9  # where all have one list, groups differ by no more than the order of a sum
# name -> (in words, which way is worse: +1 higher, −1 lower)
MEASURES = {
    "hit": ("next item in the list", -1),
    "coverage": ("catalogue coverage", -1),
    "gini": ("Gini of exposure", 1),
    "lift": ("popularity lift", 1),
    "miscalibration": ("miscalibration (KL)", 1),
    "novelty": ("novelty, bits", -1),
    "distance": ("intra-list distance", -1),
}
COUNTED = ("coverage", "gini")
Figure = dict[str, Any]  # value, ci95


@dataclass(frozen=True)
class Population:
    """R people, a list each, and N items. What the audit has no data for is None, and its figures are left out."""

    targets: np.ndarray  # [R] what each had next
    had: sparse.csr_array  # [R, N] how often each has had each item before
    counts: np.ndarray  # [N] training events
    users_of_item: np.ndarray  # [N] people with a training event of it
    n_users: int  # people with a training event
    vectors: np.ndarray | None = None  # [N, d] in which items are alike
    kinds: np.ndarray | None = None  # [N, G] p(kind | item), for calibration
    user_groups: Mapping[str, np.ndarray] = field(default_factory=dict)  # grouping -> labels [R]
    # grouping -> names [G] and membership [N, G]
    item_groups: Mapping[str, tuple[list[str], np.ndarray]] = field(default_factory=dict)

    @property
    def profile_popularity(self) -> np.ndarray:
        """Mean training events of what each has had [R]; NaN of nothing."""
        total = self.had.sum(axis=1)
        return np.divide(self.had @ self.counts, total, out=np.full(len(total), np.nan), where=total > 0)


def figures_of_lists(lists: np.ndarray, people: Population) -> dict[str, np.ndarray]:
    """Figures of each list [R] that exist, and `popularity`, of which lifts are made."""
    found = {
        "hit": hits(lists, people.targets),
        "popularity": measures.mean_of(lists, people.counts),
        "novelty": measures.mean_of(
            lists, measures.self_information(people.users_of_item, max(people.n_users, 1))
        ),
    }
    if people.kinds is not None:
        own = measures.taste(people.kinds, people.had)
        found["miscalibration"] = measures.miscalibration(
            own, measures.taste(people.kinds, _incidence(lists, len(people.counts)))
        )
    if people.vectors is not None:
        found["distance"] = measures.intra_list_distance(lists, people.vectors)
    return found


def audit_lists(name: str, lists: np.ndarray, people: Population, seed: int = 0) -> dict[str, Any]:
    """Every figure of one row's `lists` [R, n]: of all, of each group of people and items, and the worst group of each."""
    found = figures_of_lists(lists, people)
    resampled = _resampled(len(lists), RESAMPLES, seed)
    parts = _ratios(found, people)
    own = {measure: _ratio(*part, resampled) for measure, part in parts.items()}
    whole = {measure: _figure(value, draws) for measure, (value, draws) in own.items()}
    whole |= _counted(lists, len(people.counts), resampled[:RECOUNTS])
    groups, worst = {}, []
    for grouping, labels in people.user_groups.items():
        groups[grouping], some = _of_people(lists, labels, parts, resampled, len(people.counts), seed)
        worst += [{"grouping": grouping, **one} for one in some]
    items, of_items = {}, []
    for grouping, (names, members) in people.item_groups.items():
        items[grouping], some = _of_items(lists, names, members, people, found["hit"], resampled)
        of_items += [{"grouping": grouping, **one} for one in some]
    return {
        "name": name,
        "lists": len(lists),
        "n": lists.shape[1],
        "figures": {key: whole[key] for key in MEASURES if key in whole},
        "people": groups,
        "worst_people": worst,
        "items": items,
        "worst_items": of_items,
    }


# -- people ----------------------------------------------------------------------------------------------------------


def _ratios(
    found: Mapping[str, np.ndarray], people: Population
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Of each measure that is a ratio of sums over people: numerators [R], denominators [R], and what is added."""
    parts = {}
    for measure in MEASURES:
        if measure in found:
            known = ~np.isnan(found[measure])
            parts[measure] = np.where(known, found[measure], 0.0), known.astype(float), 0.0
    had = people.profile_popularity
    known = ~(np.isnan(had) | np.isnan(found["popularity"]))
    parts["lift"] = np.where(known, found["popularity"], 0.0), np.where(known, had, 0.0), -1.0
    return parts


def _ratio(
    numerators: np.ndarray, denominators: np.ndarray, plus: float, resampled: np.ndarray
) -> tuple[float, np.ndarray]:
    """The figure, and of each resample [B]."""

    def over(up: Any, down: Any) -> Any:
        return np.divide(up, down, out=np.full(np.shape(down), np.nan), where=down > 0) + plus

    value = over(np.array(numerators.sum()), np.array(denominators.sum()))
    return float(value), over(resampled @ numerators, resampled @ denominators)


def _figure(value: float, draws: np.ndarray) -> Figure:
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or not len(draws):
        return {"value": None, "ci95": None}
    return {"value": value, "ci95": np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2]).tolist()}


def _counted(lists: np.ndarray, n_items: int, resampled: np.ndarray) -> dict[str, Figure]:
    """Coverage and Gini of everybody; the resamples, in which people are missing, are shifted to lie around the figure."""
    counts = measures.exposures(lists, n_items)
    again = resampled @ _incidence(lists, n_items)
    found = {}
    for measure, of in (("coverage", measures.coverage), ("gini", measures.gini)):
        value, draws = float(of(counts)), of(again)
        found[measure] = _figure(value, np.clip(draws + value - draws.mean(), 0, 1))
    return found


def _of_people(
    lists: np.ndarray, labels: np.ndarray, parts: Mapping, resampled: np.ndarray, n_items: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The figures of each group of at least `FEWEST` people, and the worst group of each measure."""
    sizes = {str(name): int((labels == name).sum()) for name in dict.fromkeys(labels.tolist())}
    big = [name for name, size in sizes.items() if size >= FEWEST]
    few = min((sizes[name] for name in big), default=0) // 2
    draws: dict[str, dict[str, tuple[float, np.ndarray, np.ndarray]]] = {}
    rows = []
    for name in sorted(big, key=_numbered):
        mine = (labels == name).astype(float)
        row: dict[str, Any] = {"group": name, "people": sizes[name], "counted_on": few}
        for measure, (up, down, plus) in parts.items():
            value, own = _ratio(up * mine, down * mine, plus, resampled)
            _, rest = _ratio(up * (1 - mine), down * (1 - mine), plus, resampled)
            row[measure] = _figure(value, own)
            draws.setdefault(measure, {})[name] = value, own, rest
        for measure, own in _recounted(lists[labels == name], few, n_items, seed).items():
            row[measure] = _figure(float(own.mean()), own)
            draws.setdefault(measure, {})[name] = float(own.mean()), own, np.zeros(0)
        rows.append(row)
    return rows, [one for measure in MEASURES if (one := _worst(measure, draws.get(measure, {})))]


def _numbered(name: str) -> tuple[int, str]:
    """Ranges of numbers in their order, other names by the alphabet."""
    first = name.removeprefix("cold (").split("-")[0].rstrip("+")
    return (int(first), "") if first.isdigit() else (-1, name)


def _recounted(lists: np.ndarray, few: int, n_items: int, seed: int) -> dict[str, np.ndarray]:
    """Coverage and Gini [RECOUNTS] of the lists of `few` people drawn from a group, each once."""
    stream = rng(seed, "audit", "people of a group")
    drawn = [stream.choice(len(lists), few, replace=False) for _ in range(RECOUNTS)]
    counts = np.stack([measures.exposures(lists[one], n_items) for one in drawn])
    return {"coverage": measures.coverage(counts), "gini": measures.gini(counts)}


def _worst(measure: str, groups: Mapping[str, tuple[float, np.ndarray, np.ndarray]]) -> dict[str, Any] | None:
    """The worst group, and whether it is shown to be worse than the other people (Bonferroni over the groups)."""
    known = {name: one for name, one in groups.items() if not np.isnan(one[0])}
    if len(known) < 2:
        return None
    sign = MEASURES[measure][1]
    name = max(known, key=lambda one: sign * known[one][0])
    value, own, rest = known[name]
    if measure in COUNTED:
        rest = np.mean([other[1] for key, other in known.items() if key != name], axis=0)
    gap = sign * (own - rest)
    shown = bool(np.nanquantile(gap, LEVEL / 2 / len(known)) > ROUNDING)
    others = float(np.nanmean(rest))
    return {"measure": measure, "group": name, "value": value, "others": others, "shown": shown}


# -- items -----------------------------------------------------------------------------------------------------------


def _of_items(
    lists: np.ndarray,
    names: list[str],
    members: np.ndarray,
    people: Population,
    hit: np.ndarray,
    resampled: np.ndarray,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of each group of items: shares of the exposure, of the training events, of what was had next; exposure over the last; and how
    many of its items are shown at all, and how often what was had next of it is in the list. And the group that is shown least beside
    what people go on to have of it.
    """
    exposed = _incidence(lists, len(people.counts)) @ members  # [R, G]
    chosen = members[people.targets]
    training = people.counts @ members
    ever = measures.exposures(lists, len(people.counts)) > 0
    shares = [part.sum(axis=0) / max(part.sum(), 1e-12) for part in (exposed, chosen)]
    again = [resampled @ part for part in (exposed, chosen)]
    again = [part / part.sum(axis=1, keepdims=True).clip(min=1e-12) for part in again]
    rows: list[dict[str, Any]] = []
    ratios: dict[str, tuple[float, np.ndarray]] = {}
    for at, name in enumerate(names):
        enough = chosen[:, at].sum() >= FEWEST
        with np.errstate(divide="ignore", invalid="ignore"):
            over = float(shares[0][at] / shares[1][at]) if enough else float("nan")
            draws = again[0][:, at] / again[1][:, at] if enough else np.zeros(0)
        if enough:
            ratios[name] = over, draws
        recall = _ratio(hit * chosen[:, at], chosen[:, at], 0.0, resampled)
        rows.append(
            {
                "group": name,
                "items": float(members[:, at].sum()),
                "exposure": _figure(float(shares[0][at]), again[0][:, at]),
                "training": float(training[at] / max(training.sum(), 1e-12)),
                "chosen": float(shares[1][at]),
                "exposure_over_chosen": _figure(over, draws),
                "coverage": float((ever * members[:, at]).sum() / max(members[:, at].sum(), 1e-12)),
                "hit": _figure(*recall) if enough else {"value": None, "ci95": None},
            }
        )
    return rows, _worst_items(ratios)


def _worst_items(ratios: Mapping[str, tuple[float, np.ndarray]]) -> list[dict[str, Any]]:
    """The group with the lowest ratio of exposure to what was had next; shown where it is below 1 (Bonferroni over the groups)."""
    if len(ratios) < 2:
        return []
    name = min(ratios, key=lambda one: ratios[one][0])
    value, draws = ratios[name]
    shown = bool(np.nanquantile(draws, 1 - LEVEL / 2 / len(ratios)) < 1)
    return [{"group": name, "value": value, "shown": shown}]


# -- shared ----------------------------------------------------------------------------------------------------------


def _incidence(lists: np.ndarray, n_items: int) -> sparse.csr_array:
    """[R, N], 1 where an item is in a list."""
    from scipy import sparse

    rows, places = np.nonzero(lists >= 0)
    ones = np.ones(len(rows))
    return sparse.csr_array((ones, (rows, lists[rows, places])), shape=(len(lists), n_items))


def _resampled(people: int, times: int, seed: int) -> np.ndarray:
    """How often each of the people is in each resample [times, R]."""
    stream = rng(seed, "audit", "people")
    return stream.multinomial(people, np.full(people, 1 / people), size=times).astype(float)
