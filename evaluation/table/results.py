"""From per-instance figures to the table: user averages, intervals, tests, and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.statistics import sampled_agreement
from evaluation.table.breakdowns import break_down
from evaluation.table.comparisons import Measured, MeasuredRows, contrast, corrected, no_contrast
from evaluation.table.config import EvaluateConfig
from evaluation.table.matched import matched_calibration
from evaluation.table.ranking import ranking
from evaluation.table.rows import COSTS, Row
from recsys.artifacts.rewrite import write_text_atomically

REFERENCES = ("Static Prefix", "No Context", "E2P")  # every row is tested against each of these that there is


@dataclass(frozen=True)
class Results:
    """What `results.json` holds. A figure that does not exist is None. Hit-rates are fractions of 1."""

    protocol: dict[str, Any]
    rows: list[dict[str, Any]]
    primary: dict[str, Any]
    effects: list[dict[str, Any]]
    # reference row -> each row minus it, in the order of the rows
    references: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    # grouping -> its groups in order: `group`, `n_users`, `n_instances`,
    # and `rows` with figures of that group alone
    groups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    # the rows and their tests, each row at its fitted temperature (`evaluation.table.matched`)
    matched: dict[str, Any] = field(default_factory=dict)
    # all rows by one figure, and the best against every other (`evaluation.table.ranking`)
    ranking: dict[str, Any] = field(default_factory=dict)
    # what a query changes (`queries.json` of a run's stage `evaluate`); {} where none was asked
    queries: dict[str, Any] = field(default_factory=dict)

    @property
    def primary_names(self) -> tuple[str, str]:
        """The two rows of the primary comparison."""
        return self.primary["a"], self.primary["b"]

    def row(self, name: str) -> dict[str, Any]:
        for row in self.rows:
            if row["name"] == name:
                return row
        raise ValueError(
            f"there is no row '{name}'; the rows are {', '.join(row['name'] for row in self.rows)}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def write(self, path: str | Path) -> None:
        write_text_atomically(Path(path), json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Results:
        whole = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(whole["protocol"]["top_k"], int):  # results made when there was one depth
            whole["protocol"]["top_k"] = [whole["protocol"]["top_k"]]
        return cls(**whole)


def assemble(
    config: EvaluateConfig,
    rows: Sequence[Row],
    measured: Sequence[Measured],
    users: np.ndarray,
    protocol: dict[str, Any],
    primary: tuple[str, str],
    baseline: str,
    groups: Mapping[str, Sequence[str]],
) -> Results:
    """Build the results: figures of each row, each row against `baseline` and the references,
    the primary comparison, E2P's others, and the same rows within each group of `groups`
    (grouping -> label of each instance [R]).

    All tests but the primary one form a single family for Holm;
    a pair of rows is one test, whichever is named first.
    """
    table = MeasuredRows(
        config, {row.name: values for row, values in zip(rows, measured, strict=True)}, users
    )
    names = [row.name for row in rows]
    figures = [_figures(table, row) for row in rows]
    against = [contrast(table, name, baseline) for name in names]
    has_primary = set(primary) <= set(names)
    first = contrast(table, *primary) if has_primary else no_contrast(*primary, table.printed("expected"))
    others = [name for name in names if has_primary and name not in (*primary, baseline)]
    effects = [contrast(table, primary[0], name) for name in others]
    references = {
        reference: against
        if reference == baseline
        else [contrast(table, name, reference, bootstrap=False) for name in names]
        for reference in REFERENCES
        if reference in names
    }
    tests = corrected([*against, *effects, *(one for some in references.values() for one in some)], primary)
    protocol = protocol | {"n_tests_in_holm_family": tests}
    rows_out = [one | _relative(found) for one, found in zip(figures, against, strict=True)]
    in_groups = break_down(table, baseline, groups)
    temperatures = {row.name: row.matched for row in rows}
    matched = matched_calibration(table, temperatures, primary, [one for one in REFERENCES if one in names])
    stated = _primary(first, config, protocol["is_sample"])
    return Results(protocol, rows_out, stated, effects, references, in_groups, matched, ranking(table))


def _figures(table: MeasuredRows, row: Row) -> dict[str, Any]:
    """A row's own figures, each averaged over replicas and instances of a user, then over users."""
    n, name = table.n, row.name
    cuts = [f"{metric}@{k}" for k in table.config.top_k for metric in ("recall", "ndcg")]
    values = table.measured[name]
    entropy = table.per_user(name, "entropy")
    figures = {
        "name": name,
        "context_tokens": float(values["context_tokens"].mean()) if "context_tokens" in values else None,
        f"hit_rate@{n}": table.mean(name, "hit"),
        f"expected_hit_rate@{n}": table.mean(name, "expected"),
        f"top{n}": table.mean(name, "top"),
        f"distinct{n}": table.mean(name, "distinct"),
        "figure": table.printed(table.own_figure(name)),
        "ci95": table.own_mean(name)[1],
        "entropy_nats": table.mean(name, "entropy"),
        "entropy_se_nats": _standard_error(entropy),
        **{cut: table.mean(name, cut) for cut in cuts},
        "temperature": row.temperature,
        f"expected_hit_rate@{n}_at_temperature": table.mean(name, "expected_at_temperature"),
        "n_users": len(np.unique(table.users)),
        "n_instances": len(table.users),
        "n_replicas": len(row.replicas),
        "n_unreachable": int(np.isneginf(values["log_p"]).any(axis=1).sum()) if "log_p" in values else None,
        "reads": row.reads,
        "trained": row.trained,
        "is_baseline": row.is_baseline,
        **{name: row.costs.get(name) for name in COSTS},
    }
    return figures | _agreement(table, values)


def _standard_error(per_user: np.ndarray | None) -> float | None:
    """Of the mean over users; it holds the noise of the draws and the users' own differences."""
    if per_user is None or len(per_user) < 2:
        return None
    return float(per_user.mean(axis=1).std(ddof=1) / np.sqrt(len(per_user)))


def _agreement(table: MeasuredRows, values: Measured) -> dict[str, Any]:
    if "hit" not in values:
        return {"sampled_minus_expected_z": None, "sampled_z_limit": None, "sampled_agrees": None}
    unique, inverse, counts = np.unique(table.users, return_inverse=True, return_counts=True)
    instance = 1.0 / (len(unique) * counts[inverse])
    weights = np.repeat(instance[:, None], values["hit"].shape[1], axis=1) / values["hit"].shape[1]
    found = sampled_agreement(values["hit"], values["expected"], weights, len(table.config.draw_seeds))
    return {
        "sampled_minus_expected_z": found.z,
        "sampled_z_limit": found.limit,
        "sampled_agrees": found.agrees,
    }


def _relative(contrast: dict[str, Any]) -> dict[str, Any]:
    """A row's comparison with the baseline, under the names of results.json."""
    names = {"figure": "compared_on", "relative_pct": "relative_to_no_context_pct"}
    left_out = ("a", "b", "value_a", "value_b", "n_users", "smallest_detectable_pct")
    return {names.get(key, key): value for key, value in contrast.items() if key not in left_out}


def _primary(contrast: dict[str, Any], config: EvaluateConfig, is_sample: bool) -> dict[str, Any]:
    """The one comparison named before the run, and in plain words what its p-value can say at this n."""
    p, detectable = contrast["p_value"], contrast["smallest_detectable_difference"]
    if is_sample:
        reading = "Only a sample of the test instances was measured: the p-values decide nothing."
    elif contrast["value_a"] is None:
        reading = f"Not made: '{contrast['a']}' and '{contrast['b']}' are not both in the table."
    elif p is None or detectable is None:
        reading = "No test is possible: too few users, or no user differs."
    elif p < config.alpha:
        reading = f"The difference is larger than chance explains (p = {p:.2g} < {config.alpha:g})."
    else:
        reading = (
            f"No difference is shown (p = {p:.2g}), and none is excluded: with {contrast['n_users']} users "
            f"only a difference of about {detectable:.4f} would be found with {config.power:.0%} chance."
        )
    return contrast | {"alpha": config.alpha, "power": config.power, "reading": reading}
