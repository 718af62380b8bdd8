"""What runs measured, and whether they measured it on the same test: if not, how the test sets differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from evaluation.table.kept import Kept

# settings of a protocol that say what a figure is, or what may be answered: (name in results.json, in words)
RULES = (
    ("n_candidates", "draws and depth of a list"),
    ("top_k", "depths of Recall and NDCG"),
    ("temperature", "temperature of the sampled figures"),
    ("items", "items of the catalogue"),
    ("exclude_seen", "whether what a user has had is left out"),
)
NAMED = 3  # instances that a message names


@dataclass(frozen=True)
class RunFigures:
    """One run: what it is called here, its instances and figures of each row, and its protocol (`results.json`)."""

    name: str
    kept: Kept
    protocol: Mapping[str, Any]

    @property
    def keys(self) -> pd.MultiIndex:
        """Names of the instances [R]: user, item, time, and which of several that are alike in all of these."""
        frame = self.kept.instances
        alike = frame.groupby(["user_id", "item_id", "time"]).cumcount()
        return pd.MultiIndex.from_arrays([frame["user_id"], frame["item_id"], frame["time"], alike])


def how_tests_differ(a: RunFigures, b: RunFigures) -> list[str]:
    """In sentences, how the test of `b` is another than that of `a`; [] where both are one.

    One test is: the same instances (user, item, time), each after the same history, answered from as many items by the same rules.
    """
    said = [
        f"{words}: {shown(a.protocol.get(key))} in {a.name}, {shown(b.protocol.get(key))} in {b.name}"
        for key, words in RULES
        if a.protocol.get(key) != b.protocol.get(key)
    ]
    keys, others = a.keys, b.keys
    gone, new = keys.difference(others), others.difference(keys)
    if len(gone) or len(new):
        said.append(
            f"instances: {len(keys):,} in {a.name} and {len(others):,} in {b.name}, of which {len(keys) - len(gone):,} are in both"
            f"{_examples('only in ' + a.name, gone)}{_examples('only in ' + b.name, new)}"
        )
        for one in (a, b):
            if one.protocol.get("is_sample"):
                said.append(
                    f"{one.name} measured a sample of {one.protocol['n_instances']:,} of {one.protocol['n_instances_available']:,} "
                    "instances (evaluate.max_instances)"
                )
        return said
    left, right = (one.kept.instances.set_index(one.keys) for one in (a, b))
    right = right.loc[left.index]
    other = left["history"].to_numpy() != right["history"].to_numpy()
    if other.any():
        longer = (left["events"].to_numpy() != right["events"].to_numpy())[other].sum()
        said.append(
            f"histories: of {len(left):,} instances {int(other.sum()):,} come after other events ({int(longer):,} after another number of them)"
            f"{_examples('such as', left.index[other])}"
        )
    return said


def shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _examples(words: str, some: pd.MultiIndex) -> str:
    if not len(some):
        return ""
    named = "; ".join(f"user {user}, item {item}, time {time}" for user, item, time, _ in list(some)[:NAMED])
    return f"; {words}: {named}{' …' if len(some) > NAMED else ''}"


def aligned(runs: Sequence[RunFigures]) -> tuple[np.ndarray, list[dict[str, dict[str, np.ndarray]]]]:
    """Users [R] (integers) of the first run's instances, and every run's figures row by row in that order.

    Raises `ValueError` that says how test sets differ.
    """
    first = runs[0]
    for other in runs[1:]:
        if said := how_tests_differ(first, other):
            raise ValueError(
                f"{first.name} and {other.name} were not measured on the same test, so their figures are not compared. "
                + ". ".join(said)
            )
    found = []
    for run in runs:
        order = pd.Series(np.arange(len(run.keys)), index=run.keys).loc[first.keys].to_numpy()
        found.append(
            {
                name: {figure: values[order] for figure, values in row.items()}
                for name, row in run.kept.rows.items()
            }
        )
    return np.unique(first.kept.instances["user_id"], return_inverse=True)[1], found
