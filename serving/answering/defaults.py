"""The default method: the row that validation chose for a kind of request (stage `evaluate`, `default.json`), and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recsys.recommender import Request
from recsys.run import Run
from serving.answering.untrained import BASELINES, NO_CONTEXT
from serving.config.combine import ALONE

PREFERRED = ("e2p", NO_CONTEXT)  # of a run that is not evaluated: the first of these that it has
FOR_WORDS = "text_search"  # what answers a query in a run whose generator was trained without words


def kind_of(request: Request) -> str:
    """`known` or `cold` (nothing of the user is known at the moment), `with a query` or without."""
    who = "known" if len(request.history) else "cold"
    return f"{who} with a query" if request.query else who


def default_method(
    record: dict[str, Any] | None,
    request: Request,
    available: Sequence[str],
    reads_words: bool,
    sequence: bool = False,
) -> tuple[str, str]:
    """The method's key, and why it is that one: "" where nothing was chosen. `record`: what validation chose, if it has.
    `sequence`: it has to generate.
    """
    kind = kind_of(request)
    found = None if record is None else record["kinds"].get(kind)
    if record is None or found is None or sequence:
        if request.query and not reads_words and not sequence:
            return FOR_WORDS, "the run's generator was trained without words, so words are searched for"
        why = "a list in sequence is generated" if sequence and record is not None else ""
        return next(key for key in PREFERRED if key in available), why
    best = fastest_of(record, kind, available)
    return best["key"], reason(best, kind, record)


def fastest_of(
    record: Mapping[str, Any], kind: str, available: Sequence[str] | None = None
) -> dict[str, Any]:
    """The best method of a kind within the latency budget, or the fastest where none is: its `key`, `name`, `value` and `ms`."""
    ranked = [one for one in record["kinds"][kind]["ranked"] if available is None or one["key"] in available]
    fast = [one for one in ranked if one["ms"] <= record["latency_ms"]]
    return fast[0] if fast else min(ranked, key=lambda one: one["ms"])


def reason(one: Mapping[str, Any], kind: str, record: Mapping[str, Any]) -> str:
    """Why a method answers requests of a kind, in a sentence."""
    words = f"{record['measure']} {one['value']:.4f} on {record['instances']:,} validation instances"
    if one["ms"] <= record["latency_ms"]:
        return (
            f"validation's choice for {kind}: {words}, {one['ms']:.0f} ms of at most {record['latency_ms']:g}"
        )
    return f"the fastest for {kind}: {words}, {one['ms']:.0f} ms; none takes at most {record['latency_ms']:g}"


def reads_queries(key: str, for_queries: Sequence[str], reads_words: bool) -> bool:
    """Does a method's answer depend on a query's words?"""
    if key in BASELINES and key != NO_CONTEXT:
        return key == FOR_WORDS
    return key in for_queries or (reads_words and key != ALONE)


def default_sentences(run: Run) -> list[str]:
    """One for each kind of request: what answers where no method is named, and why; [] where validation has not chosen."""
    record = of_evaluate(run, "default.json")
    if record is None:
        return []
    return [
        f"default for {kind}: {one['name']} ({one['key']}); {reason(one, kind, record)}"
        for kind in record["kinds"]
        for one in [fastest_of(record, kind)]
    ]


def of_evaluate(run: Run, name: str) -> Any:
    record = run.record("evaluate")
    return run.read_json("evaluate", name) if record is not None and name in record["artifacts"] else None
