"""The same rows of several runs against those of the first: paired over users, corrected together (Holm)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.compare.measured import RunFigures, aligned
from evaluation.statistics import holm
from evaluation.table.comparisons import MeasuredRows, contrast
from evaluation.table.config import EvaluateConfig

MATCHED = (
    "log_p_matched"  # nats a target at matched calibration: the tests of what is known, beside those of hits
)
Values = Mapping[str, Mapping[str, np.ndarray]]


def compare_rows(
    runs: Sequence[RunFigures], config: EvaluateConfig, rows: Sequence[str] | None = None
) -> dict[str, Any]:
    """Each run's rows minus the same rows of the first run, on the same instances.

    A row with draws is compared on its expected hit-rate, and in nats a target at its fitted temperature; another on its list.
    Every test of the call is in one family for Holm. `rows` names those that are compared; None: all that two runs share.
    Raises `ValueError` for test sets that differ, and for a row that is nowhere, or in one run alone.
    """
    users, figures = aligned(runs)
    here = [list(one) for one in figures]
    shared = [name for name in here[0] if any(name in other for other in here[1:])]
    for name in rows or ():
        if name not in shared:
            raise ValueError(
                f"no two of these runs have a row {name!r} that can be compared; they share {', '.join(shared) or 'none'}"
            )
    table = MeasuredRows(
        config,
        {
            _name(row, run.name): {figure: one[:, None].astype(float) for figure, one in values.items()}
            for run, found in zip(runs, figures, strict=True)
            for row, values in found.items()
        },
        users,
    )
    tests = []
    for run, found in zip(runs[1:], figures[1:], strict=True):
        for row in shared if rows is None else rows:
            if row in found and row in figures[0]:
                tests += _tests(table, row, runs[0], run, figures[0][row], found[row])
    for one, p in zip(tests, holm([one["p_value"] for one in tests]), strict=True):
        one["p_holm"] = p
    return {
        "runs": [run.name for run in runs],
        "instances": len(users),
        "users": len(np.unique(users)),
        "tests_in_holm_family": sum(one["p_value"] is not None for one in tests),
        "tests": tests,
        "rows_of_one_run": {
            run.name: [row for row in found if sum(row in other for other in figures) == 1]
            for run, found in zip(runs, figures, strict=True)
        },
        "best": [
            {"run": run.name, **_best(table, run, found)} for run, found in zip(runs, figures, strict=True)
        ],
    }


def _name(row: str, run: str) -> str:
    return f"{row} ({run})"


def _tests(
    table: MeasuredRows, row: str, first: RunFigures, other: RunFigures, a: Mapping, b: Mapping
) -> list[dict[str, Any]]:
    figures: list[str | None] = [None, *([MATCHED] if MATCHED in a and MATCHED in b else [])]
    found = [
        contrast(table, _name(row, other.name), _name(row, first.name), figure=figure) for figure in figures
    ]
    return [one | {"row": row, "run": other.name, "against": first.name} for one in found]


def _best(table: MeasuredRows, run: RunFigures, found: Values) -> dict[str, Any]:
    """The row with the most hits in its list (every row has one), and its interval over users."""
    listed = [row for row, figures in found.items() if "top" in figures]
    if not listed:
        return {"row": None, "figure": None, "value": None, "ci95": None}
    value, name = max((table.mean(_name(row, run.name), "top") or 0.0, row) for row in listed)
    _, interval = table.mean_and_interval(_name(name, run.name), "top")
    return {"row": name, "figure": table.printed("top"), "value": value, "ci95": interval}
