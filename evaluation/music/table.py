"""The music table: each row's engagement and affinity against No Context, and what its lists are like.

Every figure is a mean over users: a row's replicas are averaged first, then each user's requests. Differences
are paired over the requests that both rows can answer for. The comparisons of engagement that are named
before the run, the primary row against its controls and against the baseline, are one Holm family, the other
rows against the baseline a second, affinity a third. Of what else the lists are like no test is made: it
stands there because a proxy can be gamed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.music import metrics
from evaluation.music.judge import FIGURES, PlaylistRow
from evaluation.report.tables import (  # fmt: skip
    Column,
    TitledTable,
    interval,
    number,
    p_value,
    percent,
    rate,
    signed,
    signed_interval,
    text,
)
from evaluation.statistics import (
    bootstrap_difference,
    holm,
    mean_interval,
    paired_test,
    smallest_detectable_difference,
    user_means,
)
from evaluation.table.comparisons import percent as percent_of
from recsys.seeds import rng

TESTED = ("engagement", "affinity")
HITS = ("above", "sharpened", "precision", "held_out", "liked", "disliked")
ALIKE = ("diversity", "popularity", "novelty")
NAMES = {
    "above": "engaged above not",
    "sharpened": "engagement at t",
    "held_out": "held-out queries",
    "novelty": "novelty, bits",
}
DIGITS = {"novelty": number(2)}
BOOTSTRAP_SAMPLES = 2000


def music_table(
    rows: Mapping[str, PlaylistRow],
    users: np.ndarray,
    n_items: int,
    primary: str,
    controls: Sequence[str] = ("Static Prefix",),
    baseline: str = "No Context",
    seed: int = 0,
) -> dict[str, Any]:
    """The table as a plain dict, ready for JSON.

    `users` [R] whose request each is (`Shown.units`: each request of an unknown user counts as a user).
    `primary` and `controls` name rows; a comparison with a row that was not measured is left out. Raises
    `ValueError` without the baseline.
    """
    if baseline not in rows:
        raise ValueError(
            f"the music table compares with {baseline!r}, which was not measured; rows: {', '.join(rows)}"
        )
    table = [{"name": name, **_row(row, rows[baseline], users, n_items)} for name, row in rows.items()]
    for figure in TESTED:
        named = {baseline, primary} if figure == "engagement" else {baseline}
        _correct([row[figure] for row in table if row["name"] not in named and row[figure]])
    first = [
        {"a": primary, "b": other, **_difference(rows[primary], rows[other], "engagement", users)}
        | _power(rows[primary], rows[other], users, rng(seed, "playlists", primary, other))
        for other in (*controls, baseline)
        if primary in rows and other in rows and other != primary
    ]
    _correct(first)
    for one in first:
        if one["b"] == baseline:
            next(row for row in table if row["name"] == primary)["engagement"]["p_holm"] = one["p_holm"]
    return {
        "baseline": baseline,
        "primary": first,
        "n_requests": len(users),
        "n_users": len(np.unique(users)),
        "n_items": n_items,
        "rows": table,
    }


def _row(row: PlaylistRow, base: PlaylistRow, users: np.ndarray, n_items: int) -> dict[str, Any]:
    if not (row.lists >= 0).any():
        raise ValueError("a row of the music table lists nothing at all; leave it out")
    return {
        "n_replicas": len(row.lists),
        "length": float((row.lists >= 0).sum(axis=2).mean()),
        "coverage": float(np.mean([metrics.catalogue_coverage(lists, n_items) for lists in row.lists])),
        "gini": float(np.mean([metrics.gini(lists, n_items) for lists in row.lists])),
        **{figure: _figure(row, base, figure, users) for figure in FIGURES},
    }


def _figure(row: PlaylistRow, base: PlaylistRow, figure: str, users: np.ndarray) -> dict[str, Any] | None:
    """Value, interval and, except for the baseline itself, the paired difference to it.
    None: the row has none.
    """
    values = row.figures[figure]
    there = None if values is None else ~np.isnan(values).any(axis=1)
    if values is None or there is None or not there.any():
        return None
    means = user_means(values[there].mean(axis=1), users[there])[1]
    bounds = mean_interval(means)
    found = {
        "value": float(means.mean()),
        "ci95": None if bounds is None else list(bounds),
        "n_users": len(means),
    }
    return found | (_difference(row, base, figure, users) if row is not base else {})


def _paired(
    a: PlaylistRow, b: PlaylistRow, figure: str, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Per-user means [U, Ka] and [U, Kb] over the requests that both rows have the figure of;
    None without one.
    """
    left, right = a.figures[figure], b.figures[figure]
    if left is None or right is None:
        return None
    there = ~(np.isnan(left).any(axis=1) | np.isnan(right).any(axis=1))
    if not there.any():
        return None
    return user_means(left[there], users[there])[1], user_means(right[there], users[there])[1]


def _difference(a: PlaylistRow, b: PlaylistRow, figure: str, users: np.ndarray) -> dict[str, Any]:
    """a − b, also as % of b, whose mean is taken as given (a mean of 0 or less, as an affinity may have, has
    no %). All None where there is nothing to compare.
    """
    names = ("difference", "difference_ci95", "relative_pct", "relative_ci95_pct", "p_value", "p_holm")
    found: dict[str, Any] = dict.fromkeys(names)
    pair = _paired(a, b, figure, users)
    if pair is None:
        return found
    test, base = paired_test(pair[0].mean(axis=1), pair[1].mean(axis=1)), float(pair[1].mean())
    found |= {
        "difference": test.difference,
        "relative_pct": percent_of(test.difference, max(base, 0.0)),
        "p_value": test.p_value,
    }
    if test.interval is None:
        return found
    relative = [percent_of(end, base) for end in test.interval] if base > 0 else None
    return found | {"difference_ci95": list(test.interval), "relative_ci95_pct": relative}


def _power(
    a: PlaylistRow, b: PlaylistRow, users: np.ndarray, generator: np.random.Generator
) -> dict[str, Any]:
    """The bootstrap over users and replicas, and the smallest difference
    that these users could have shown.
    """
    pair = _paired(a, b, "engagement", users)
    if pair is None:
        return {"bootstrap_ci95": None, "smallest_detectable_difference": None, "n_users": 0}
    bounds = bootstrap_difference(*pair, generator, BOOTSTRAP_SAMPLES)
    test = paired_test(pair[0].mean(axis=1), pair[1].mean(axis=1))
    return {
        "bootstrap_ci95": None if bounds is None else list(bounds),
        "smallest_detectable_difference": smallest_detectable_difference(test.sd, test.n_users),
        "n_users": test.n_users,
    }


def _correct(family: Sequence[dict[str, Any]]) -> None:
    """Fill in `p_holm` of one family."""
    for one, value in zip(family, holm([one["p_value"] for one in family]), strict=True):
        one["p_holm"] = value


# -- as text -------------------------------------------------------------------------------------------------


def _of(key: str, show: Callable[[Any], str]) -> Callable[[Mapping | None], str]:
    """Print one entry of a figure; a figure that the row does not have,
    or the baseline's difference to itself, is blank.
    """
    return lambda figure: show(None if figure is None else figure.get(key))


def music_tables(table: Mapping[str, Any]) -> list[TitledTable]:
    """Title, columns and rows of what is printed."""
    base = table["baseline"]
    effects: list[TitledTable] = [
        (
            f"Playlists: {what}, against {base}",
            [
                ("Row", "name", text),
                (figure, figure, _of("value", rate)),
                ("95 % interval", figure, _of("ci95", interval)),
                ("relative", figure, _of("relative_pct", percent)),
                ("difference", figure, _of("difference", signed)),
                ("95 % interval", figure, _of("difference_ci95", signed_interval)),
                ("p", figure, _of("p_value", p_value)),
                ("p, Holm", figure, _of("p_holm", p_value)),
            ],
            table["rows"],
        )
        for figure, what in (("engagement", "predicted engagement"), ("affinity", "affinity"))
    ]
    hits: list[Column] = [
        ("Row", "name", text),
        ("replicas", "n_replicas", text),
        ("items", "length", number(1)),
        *((NAMES.get(figure, figure), figure, _of("value", rate)) for figure in HITS),
    ]  # fmt: skip
    alike: list[Column] = [
        ("Row", "name", text),
        *((NAMES.get(figure, figure), figure, _of("value", DIGITS.get(figure, rate))) for figure in ALIKE),
        ("coverage", "coverage", rate),
        ("Gini", "gini", rate),
    ]  # fmt: skip
    differences: list[list[Column]] = [
        [("Row", "name", text),
         *((NAMES.get(figure, figure), figure, _of("difference_ci95", signed_interval)) for figure in some)]
        for some in (HITS, ALIKE)
    ]  # fmt: skip
    named: list[Column] = [
        ("Row", "a", text), ("against", "b", text), ("relative", "relative_pct", percent),
        ("difference", "difference", signed), ("95 % interval", "difference_ci95", signed_interval),
        ("bootstrap", "bootstrap_ci95", signed_interval), ("p", "p_value", p_value),
        ("p, Holm", "p_holm", p_value), ("detectable", "smallest_detectable_difference", rate),
    ]  # fmt: skip
    others = [row for row in table["rows"] if row["name"] != base]
    primary: list[TitledTable] = [
        ("Playlists: the comparisons of engagement named before the run", named, table["primary"])
    ]
    return [
        effects[0],
        *(primary if table["primary"] else []),
        effects[1],
        ("Playlists: what the lists hit", hits, table["rows"]),
        (f"Playlists: what they hit, 95 % intervals of the difference to {base}", differences[0], others),
        ("Playlists: what the lists are like", alike, table["rows"]),
        (
            f"Playlists: what they are like, 95 % intervals of the difference to {base}",
            differences[1],
            others,
        ),
    ]


def describe_music(table: Mapping[str, Any]) -> list[str]:
    """What the columns mean, in plain sentences."""
    named = " and ".join(f"{one['a']} against {one['b']}" for one in table["primary"])
    return [
        f"{table['n_requests']:,} test requests of {table['n_users']:,} users. Engagement is the predictor's "
        "mean probability over a list's items; affinity the mean cosine of user and items in a space that "
        "neither prefix nor predictor reads, blank for rows that rank by such a similarity themselves.",
        "Engaged above not: the chance that a row's own probabilities put an engaged item of a shown list "
        "above one that was not (.5 is chance; no predictor is needed for it). Engagement at t: of lists at "
        "the temperature that validation chose for the row.",
        "Precision: share of items that carry the query's words, and of held-out queries alone. Liked, "
        "disliked: share of the shown items with that label that the list holds. Popularity: mean percentile "
        "(.5 is no bias). Novelty: −log₂ of an item's share of training events. Coverage: share of the "
        "catalogue in any list. Gini: 0 if all items are listed alike.",
        *([f"Named before the run: {named}; Holm over these alone."] if named else []),
        f"The other rows against {table['baseline']} are one Holm family for engagement and one for "
        "affinity. Intervals are over users; those of differences are paired. Of the other figures no test "
        "is made, and their intervals are not corrected.",
    ]
