"""All rows by one figure, and the best of them against every other, corrected for having been found among all."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import Any

from evaluation.statistics import holm, paired_test
from evaluation.table.comparisons import INTERVAL_ALPHA, MeasuredRows, contrast

CONTROLS = ("E2P-Random",)  # rows that nobody could serve: they are ranked, and are never the best


def ranking(table: MeasuredRows, controls: Collection[str] = CONTROLS) -> dict[str, Any]:
    """`figure`, `best`, `rows` (name, value, ci95; from the best on), `contrasts` (the best minus each other) and `n_tests_in_holm_family`.

    The figure is the ranked list's hit-rate, which all rows have; where generative rows have no lists (`beam_columns` off), the expected one.
    Who is best is read off the test itself, so the contrasts' `p_holm` is Holm's over all pairs of rows, whichever of them came out first.
    """
    ranked = all("top" in row for row in table.measured.values())
    figure = "top" if ranked or not any("expected" in row for row in table.measured.values()) else "expected"
    names = [name for name, row in table.measured.items() if figure in row]
    rows: list[dict[str, Any]] = []
    for name in names:
        value, bounds = table.mean_and_interval(name, figure)
        inside = None if bounds is None else [max(0.0, bounds[0]), min(1.0, bounds[1])]
        rows.append({"name": name, "value": value, "ci95": inside})
    rows.sort(key=lambda row: -row["value"])
    best = next((row["name"] for row in rows if row["name"] not in controls), None)
    users = {name: table.per_user(name, figure).mean(axis=1) for name in names}  # type: ignore[union-attr]
    pairs = list(combinations(names, 2))
    p_values = [paired_test(users[a], users[b], INTERVAL_ALPHA).p_value for a, b in pairs]
    adjusted = dict(zip(map(frozenset, pairs), holm(p_values), strict=True))
    contrasts = [
        contrast(table, best, row["name"], False, figure)
        | {"p_holm": adjusted[frozenset((best, row["name"]))]}
        for row in rows
        if best is not None and row["name"] != best
    ]
    tests = sum(value is not None for value in p_values)
    return {
        "figure": table.printed(figure),
        "best": best,
        "rows": rows,
        "contrasts": contrasts,
        "n_tests_in_holm_family": tests,
    }
