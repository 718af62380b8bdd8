"""From what each method said of each test instance to a table: figures, intervals over users, paired tests.

Every figure but F1 is a mean over users of their instances' means (`statistics.user_means`), shown through a
monotone function where that is its habit: perplexity is exp of mean nats a token, RMSE the root of a mean
squared error. Intervals are carried through that function; tests and differences are of the mean behind it.
Macro F1 is of the whole table, with an interval and a two-sided p by bootstrap over users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.report.tables import interval, p_value, rate, signed
from evaluation.statistics import holm, mean_interval, paired_test, user_means
from evaluation.text_tasks.metrics import label_counts, macro_f1, macro_f1_of_counts
from recsys.seeds import rng

SHOWN: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "root": math.sqrt,
    "as it is": lambda value: value,
}


@dataclass(frozen=True)
class Figure:
    """One figure of one method: values [N, K] of N instances and K replicas
    (NaN: not measured on that instance).
    """

    values: np.ndarray
    shown: str = "as it is"


@dataclass(frozen=True)
class Measured:
    """All that one method was measured on. `predicted` [N, K] are label numbers, for macro F1."""

    figures: Mapping[str, Figure]
    predicted: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def tabulate(
    measured: Mapping[str, Measured],
    users: np.ndarray,
    targets: np.ndarray | None,
    n_labels: int,
    baselines: Sequence[str],
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The rows of the table: each method's figures,
    and its tests against the `baselines` that were measured.
    """
    rows = [
        {
            "name": name,
            **part.facts,
            "figures": {key: _figure(value, users) for key, value in part.figures.items()},
        }
        for name, part in measured.items()
    ]
    present = [name for name in baselines if name in measured]
    for key in next(iter(measured.values())).figures:
        for baseline in present:
            _compare(rows, measured, key, baseline, users)
    if targets is not None:
        _add_f1(rows, measured, users, targets, n_labels, present, samples, seed)
    return rows


def _figure(figure: Figure, users: np.ndarray) -> dict[str, Any]:
    names, means = _per_user(figure, users)
    shown, bounds = SHOWN[figure.shown], mean_interval(means)
    low_high = (
        None
        if bounds is None
        else [shown(max(bounds[0], 0) if figure.shown == "root" else bounds[0]), shown(bounds[1])]
    )
    return {"value": shown(float(means.mean())), "ci95": low_high, "n_users": len(names), "against": {}}


def _per_user(figure: Figure, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = figure.values.mean(axis=1)
    there = ~np.isnan(values)
    return user_means(values[there], users[there])


def _compare(rows, measured, key: str, baseline: str, users: np.ndarray) -> None:
    """Paired tests of every other row against `baseline`, one Holm family."""
    other = _per_user(measured[baseline].figures[key], users)[1]
    family = [row for row in rows if row["name"] != baseline]
    for row in family:
        test = paired_test(_per_user(measured[row["name"]].figures[key], users)[1], other)
        row["figures"][key]["against"][baseline] = {
            "difference": test.difference, "ci95": test.interval, "p": test.p_value,
        }  # fmt: skip
    adjusted = holm([row["figures"][key]["against"][baseline]["p"] for row in family])
    for row, value in zip(family, adjusted, strict=True):
        row["figures"][key]["against"][baseline]["p_holm"] = value


def _add_f1(rows, measured, users, targets, n_labels, baselines, samples, seed) -> None:
    n_users = len(np.unique(users))
    weights = rng(seed, "bootstrap").multinomial(n_users, np.full(n_users, 1 / n_users), size=samples)
    drawn: dict[str, np.ndarray] = {}
    for row in rows:
        predicted = measured[row["name"]].predicted
        values, boots = [], []
        for replica in predicted.T:
            counts = label_counts(targets, replica, users, n_labels)[1]
            values.append(macro_f1(targets, replica))
            boots.append(macro_f1_of_counts(np.tensordot(weights, counts, axes=1)))
        drawn[row["name"]] = np.mean(boots, axis=0)
        row["figures"]["f1"] = {
            "value": float(np.mean(values)),
            "ci95": np.quantile(drawn[row["name"]], [0.025, 0.975]).tolist(),
            "n_users": n_users,
            "against": {},
        }
    for baseline in baselines:
        family = [row for row in rows if row["name"] != baseline]
        for row in family:
            change = drawn[row["name"]] - drawn[baseline]
            tail = min((change <= 0).mean(), (change >= 0).mean())
            mine, theirs = (row["figures"]["f1"]["value"], _value(rows, baseline, "f1"))
            row["figures"]["f1"]["against"][baseline] = {
                "difference": mine - theirs,
                "ci95": np.quantile(change, [0.025, 0.975]).tolist(),
                "p": float(min(1.0, max(2 * tail, 1 / samples))),
            }
        adjusted = holm([row["figures"]["f1"]["against"][baseline]["p"] for row in family])
        for row, value in zip(family, adjusted, strict=True):
            row["figures"]["f1"]["against"][baseline]["p_holm"] = value


def _value(rows, name: str, key: str) -> float:
    return next(row["figures"][key]["value"] for row in rows if row["name"] == name)


# -- as text -------------------------------------------------------------------------------------------------


def figure_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: one row a method, each figure above its 95 % interval."""
    keys = list(rows[0]["figures"])
    headings = ["method", "tokens", "parameters", *keys]
    body = []
    for row in rows:
        cells = [row["name"], f"{row['tokens_added']:.0f}", f"{row['parameters']:,}"]
        for key in keys:
            figure = row["figures"][key]
            cells.append(f"{rate(figure['value'])}\n{interval(figure['ci95'])}")
        body.append(cells)
    return headings, body


def comparison_table(
    rows: Sequence[Mapping[str, Any]], baseline: str
) -> tuple[list[str], list[list[str]]] | None:
    """Headings and cells of all tests against one baseline, each difference above p and p by Holm;
    None: not measured.
    """
    keys = list(rows[0]["figures"])
    body = []
    for row in rows:
        cells = [row["name"]]
        for key in keys:
            test = row["figures"][key]["against"].get(baseline)
            cells.append(
                ""
                if test is None
                else f"{signed(test['difference'])}\n{p_value(test['p'])}, {p_value(test['p_holm'])}"
            )
        if any(cells[1:]):
            body.append(cells)
    return (["method", *keys], body) if body else None


def markdown(
    title: str, facts: Sequence[str], rows: Sequence[Mapping[str, Any]], baselines: Sequence[str]
) -> str:
    """The report: what was measured on, the figures, and the tests against each baseline."""
    parts = [f"# {title}", "", *(f"- {fact}" for fact in facts), "", *_lines(*figure_table(rows))]
    for baseline in baselines:
        table = comparison_table(rows, baseline)
        if table is not None:
            parts += ["", f"## Against {baseline}", "", *_lines(*table)]
    return "\n".join(parts) + "\n"


def _lines(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = (headings, ["---"] * len(headings), *body)
    return [f"| {' | '.join(cell.replace(chr(10), '; ') for cell in cells)} |" for cells in rows]
