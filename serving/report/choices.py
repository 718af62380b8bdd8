"""What answers by default, and the table of queries: in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.report.report import Section
from evaluation.report.tables import Column, TitledTable, interval, number, p_value, rate, signed, text
from recsys.run import Run
from serving.answering.defaults import default_sentences, of_evaluate

SIDES = {"seen": "queries whose text training may read", "held_out": "held-out query texts"}


def choice_sections(run: Run) -> list[Section]:
    """The report's sections on the default method and on queries; none in a run without them."""
    found, record = list[Section](), of_evaluate(run, "default.json")
    if record is not None:
        columns: list[Column] = [
            ("Row", "name", text), ("key", "key", text), (record["measure"], "value", rate), ("ms", "ms", number(0)),
        ]  # fmt: skip
        tables: list[TitledTable] = [
            (f"Validation, {kind}", columns, some["ranked"]) for kind, some in record["kinds"].items()
        ]
        said = [
            f"What “prelude recommend” answers with where no method is named: the best of validation that takes at most {record['latency_ms']:g} ms "
            "for a single request of ten items on the machine that evaluated. The test has no say in it. Known: who has a history; cold: who has none.",
            *map(_capital, default_sentences(run)),
        ]
        found.append(Section("The default method", said, tables))
    queries = of_evaluate(run, "queries.json")
    if queries:
        said = [_capital(_difference(side, some)) for side, some in queries.items()]
        found.append(Section("Queries", said, [_table(side, some) for side, some in queries.items()]))
    return found


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _table(side: str, found: Mapping[str, Any]) -> TitledTable:
    columns: list[Column] = [
        ("Row", "name", text), ("hits@30", "hit_rate@30", rate), ("95 % interval", "hit_rate@30_ci95", interval),
        ("precision@10", "precision@10", rate),
    ]  # fmt: skip
    title = f"(user, query) → next item: {SIDES[side]}, {found['instances']:,} instances of {found['users']:,} users"
    return title, columns, found["rows"]


def _difference(side: str, found: Mapping[str, Any]) -> str:
    change = found["difference"]
    if change is None:
        return f"{SIDES[side]}: no default was chosen."
    bounds = (
        "" if change["ci95"] is None else f" ({signed(change['ci95'][0])} to {signed(change['ci95'][1])})"
    )
    return (
        f"{SIDES[side]}: {found['default']}, the default, less {found['best_baseline']}, the best baseline of validation: "
        f"{signed(change['value'])}{bounds}, p {p_value(change['p_value'])}. A query is made of its target's words."
    )
