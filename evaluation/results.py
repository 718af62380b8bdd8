"""From per-instance figures to the table: user averages, intervals, tests, and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.statistics import (
    bootstrap_difference,
    holm,
    mean_interval,
    paired_test,
    sampled_agreement,
    smallest_detectable_difference,
    user_means,
)
from recsys.run import write_text_atomically
from recsys.seeds import rng

if TYPE_CHECKING:
    from evaluation.job import EvaluateConfig, Row

Measured = dict[str, np.ndarray]  # figure -> [R, K]: instances × the replicas that have it
INTERVAL_ALPHA = 0.05  # intervals are 95 %, whatever level the tests use: their names say ci95


@dataclass(frozen=True)
class Results:
    """What `results.json` holds. A figure that does not exist is None. Hit-rates are fractions of 1."""

    protocol: dict[str, Any]
    rows: list[dict[str, Any]]
    primary: dict[str, Any]
    effects: list[dict[str, Any]]

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
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class _Table:
    """The measured rows by name, and what every comparison between them needs."""

    config: EvaluateConfig
    measured: dict[str, Measured]
    users: np.ndarray  # [R]

    @property
    def n(self) -> int:
        return self.config.n_candidates

    def per_user(self, name: str, figure: str) -> np.ndarray | None:
        """Per-user means [U, K] of a figure, or None where the row has none."""
        values = self.measured[name].get(figure)
        return None if values is None else user_means(values, self.users)[1]

    def mean(self, name: str, figure: str) -> float | None:
        values = self.per_user(name, figure)
        return None if values is None else float(values.mean())

    def own_figure(self, name: str) -> str:
        """What a row is compared on: its expected hit-rate, or the ranked list's hit-rate where it has no
        draws.
        """
        return "expected" if "expected" in self.measured[name] else "top"

    def printed(self, figure: str) -> str:
        return {"expected": f"expected_hit_rate@{self.n}", "top": f"top{self.n}"}[figure]


def assemble(
    config: EvaluateConfig,
    rows: Sequence[Row],
    measured: Sequence[Measured],
    users: np.ndarray,
    protocol: dict[str, Any],
    primary: tuple[str, str],
    baseline: str,
) -> Results:
    """Build the results: figures of each row, each row against `baseline`, the primary comparison, and E2P's
    others.

    All tests but the primary one form a single family for Holm.
    """
    table = _Table(config, {row.name: values for row, values in zip(rows, measured, strict=True)}, users)
    names = [row.name for row in rows]
    figures = [_figures(table, row) for row in rows]
    against = [_contrast(table, row.name, baseline) for row in rows]
    has_primary = set(primary) <= set(names)
    first = _contrast(table, *primary) if has_primary else _no_contrast(*primary, table.printed("expected"))
    others = [name for name in names if has_primary and name not in (*primary, baseline)]
    effects = [_contrast(table, primary[0], name) for name in others]
    adjusted = holm([contrast["p_value"] for contrast in (*against, *effects)])
    for contrast, value in zip((*against, *effects), adjusted, strict=True):
        contrast["p_holm"] = value
    tests = sum(value is not None for value in adjusted)
    protocol = protocol | {"n_tests_in_holm_family": tests}
    rows_out = [one | _relative(contrast) for one, contrast in zip(figures, against, strict=True)]
    return Results(protocol, rows_out, _primary(first, config, protocol["is_sample"]), effects)


def _figures(table: _Table, row: Row) -> dict[str, Any]:
    """A row's own figures, each averaged over replicas and instances of a user, then over users."""
    n, k, name = table.n, table.config.top_k, row.name
    values = table.measured[name]
    own = table.per_user(name, table.own_figure(name))
    assert own is not None
    entropy = table.per_user(name, "entropy")
    interval = mean_interval(own.mean(axis=1), INTERVAL_ALPHA)
    figures = {
        "name": name,
        "context_tokens": float(values["context_tokens"].mean()) if "context_tokens" in values else None,
        f"hit_rate@{n}": table.mean(name, "hit"),
        f"expected_hit_rate@{n}": table.mean(name, "expected"),
        f"top{n}": table.mean(name, "top"),
        f"distinct{n}": table.mean(name, "distinct"),
        "figure": table.printed(table.own_figure(name)),
        "ci95": None if interval is None else [max(0.0, interval[0]), min(1.0, interval[1])],
        "entropy_nats": table.mean(name, "entropy"),
        "entropy_se_nats": _standard_error(entropy),
        f"recall@{k}": table.mean(name, "recall"),
        f"ndcg@{k}": table.mean(name, "ndcg"),
        "temperature": row.temperature,
        f"expected_hit_rate@{n}_at_temperature": table.mean(name, "expected_at_temperature"),
        "n_users": len(own),
        "n_instances": len(table.users),
        "n_replicas": len(row.replicas),
        "n_unreachable": int(np.isneginf(values["log_p"]).any(axis=1).sum()) if "log_p" in values else None,
        "reads": row.reads,
        "trained": row.trained,
    }
    return figures | _agreement(table, values)


def _standard_error(per_user: np.ndarray | None) -> float | None:
    """Of the mean over users; it holds the noise of the draws and the users' own differences."""
    if per_user is None or len(per_user) < 2:
        return None
    return float(per_user.mean(axis=1).std(ddof=1) / np.sqrt(len(per_user)))


def _agreement(table: _Table, values: Measured) -> dict[str, Any]:
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


def _contrast(table: _Table, a: str, b: str) -> dict[str, Any]:
    """Row a minus row b, like with like: expected hit-rates, or both ranked lists if either has no draws."""
    config = table.config
    kinds = {table.own_figure(a), table.own_figure(b)}
    figure = "expected" if kinds == {"expected"} else "top"
    contrast = _no_contrast(a, b, table.printed(figure)) | {"n_users": len(np.unique(table.users))}
    left, right = table.per_user(a, figure), table.per_user(b, figure)
    if left is None or right is None:
        return contrast
    base = float(right.mean())
    contrast |= {"value_a": float(left.mean()), "value_b": base}
    if a == b:
        return contrast | {"difference": 0.0, "relative_pct": 0.0 if base else None}
    test = paired_test(left.mean(axis=1), right.mean(axis=1), INTERVAL_ALPHA)
    stream = rng(config.seed, "bootstrap", a, b)
    bootstrap = bootstrap_difference(left, right, stream, config.bootstrap_samples, INTERVAL_ALPHA)
    detectable = smallest_detectable_difference(test.sd, test.n_users, config.alpha, config.power)
    return contrast | {
        "difference": test.difference,
        "difference_ci95": None if test.interval is None else list(test.interval),
        "bootstrap_ci95": None if bootstrap is None else list(bootstrap),
        "relative_pct": _percent(test.difference, base),
        # the base is taken as given: the interval's width is that of the difference alone
        "relative_ci95_pct": [_percent(end, base) for end in test.interval]
        if test.interval and base
        else None,
        "p_value": test.p_value,
        "smallest_detectable_difference": detectable,
        "smallest_detectable_pct": None if detectable is None else _percent(detectable, base),
    }


def _no_contrast(a: str, b: str, figure: str) -> dict[str, Any]:
    """A comparison with nothing to compare: every figure None."""
    figures = (
        "value_a", "value_b", "n_users", "difference", "difference_ci95", "bootstrap_ci95", "relative_pct",
        "relative_ci95_pct", "p_value", "smallest_detectable_difference", "smallest_detectable_pct",
    )  # fmt: skip
    return {"a": a, "b": b, "figure": figure} | dict.fromkeys(figures)


def _percent(part: float, base: float) -> float | None:
    return 100.0 * part / base if base else None


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
