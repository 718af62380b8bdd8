"""The same rows within parts of the test: kinds of users, levels of activity."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.table.comparisons import MeasuredRows, contrast


def break_down(
    table: MeasuredRows, baseline: str, groups: Mapping[str, Sequence[str]]
) -> dict[str, list[dict[str, Any]]]:
    """Grouping -> its groups, by the number their labels begin with and then by name.

    `groups` [grouping][R] labels each instance. In a group only its own instances count: a user's
    mean is over them, and the interval over the users who have one. The comparisons say what is
    where; no test is made of them.
    """
    found = {}
    for grouping, labels in groups.items():
        given = np.asarray(labels, dtype=object)
        names = sorted(dict.fromkeys(given.tolist()), key=_in_order)
        found[grouping] = [{"group": name} | _group(table.only(given == name), baseline) for name in names]
    return found


def _in_order(label: str) -> tuple[float, bool, str]:
    number = re.search(r"\d+", label)
    return float(number[0]) if number else -1.0, not label.startswith("<"), label


def _group(table: MeasuredRows, baseline: str) -> dict[str, Any]:
    rows = []
    for name in table.measured:
        value, interval = table.own_mean(name)
        against = contrast(table, name, baseline, bootstrap=False)
        rows.append(
            {
                "name": name,
                "figure": table.printed(table.own_figure(name)),
                "value": value,
                "ci95": interval,
                "compared_on": against["figure"],
                "baseline_value": against["value_b"],
                "difference": against["difference"],
                "difference_ci95": against["difference_ci95"],
            }
        )
    return {"n_users": len(np.unique(table.users)), "n_instances": len(table.users), "rows": rows}
