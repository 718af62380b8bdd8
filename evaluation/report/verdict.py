"""The verdict: five sentences that a reader wants first, made of the figures of results.json; the page and the terminal say the same.

A difference is *shown* if its interval leaves out zero and its p-value, corrected, is below the protocol's alpha; else the sentence
says "not shown". A mere sample of the test shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.report.tables import interval, p_value, rate, signed
from evaluation.table.results import Results

OWN, ANOTHERS, NOBODYS = "E2P", "E2P-Random", "Static Prefix"
POPULARITY = "Popularity"
BYTES_A_NUMBER = 4  # float32, as they are stored
OF_BASELINES = ("Popularity", "Recency", "Item-kNN", "Embedding Retrieval", "SASRec")
SIDES = {  # the first that there is: words that training has not read are the harder question
    "held_out": "words of the target that training has not read",
    "seen": "words of the target that training may have read",
}


@dataclass(frozen=True)
class Sentence:
    """One line of the verdict. `shown`: the data show it; None: there is nothing to show, or it was not measured."""

    key: str  # best, next, personal, query or cost
    question: str
    text: str
    shown: bool | None


def sentences(results: Results) -> list[Sentence]:
    """The five: which row is best, by how much, is it personal, what a query changes, what it costs."""
    found = [_best(results), _next(results), _personal(results), _query(results), _cost(results)]
    if not results.protocol["is_sample"]:
        return found
    n, of = results.protocol["n_instances"], results.protocol["n_instances_available"]
    first = found[0]
    told = f"Only a sample of the test was measured ({n:,} of {of:,} instances): it decides nothing. "
    return [Sentence(first.key, first.question, told + first.text, first.shown), *found[1:]]


def best_row(results: Results) -> dict[str, Any] | None:
    """The row that ranks best (`Results.ranking`); None in a table of controls alone."""
    name = ranking_of(results)["best"]
    return None if name is None else results.row(name)


def is_baseline(row: Mapping[str, Any]) -> bool:
    """Is a row one of those that need no generator? Results of an older Prelude say it by their names alone."""
    return row.get("is_baseline", row["name"].removesuffix(" (softmax)") in OF_BASELINES)


def ranking_of(results: Results) -> Mapping[str, Any]:
    """`Results.ranking`; of results made before there was one, as far as their figures go: no interval, no test."""
    if results.ranking:
        return results.ranking
    n = results.protocol["n_candidates"]
    figure = f"top{n}" if all(row.get(f"top{n}") is not None for row in results.rows) else None
    rows = [
        {"name": row["name"], "value": row[figure or row["figure"]], "ci95": None if figure else row["ci95"]}
        for row in results.rows
        if figure or row["figure"] == f"expected_hit_rate@{n}"
    ]
    rows.sort(key=lambda row: -row["value"])
    best = next((row["name"] for row in rows if row["name"] != ANOTHERS), None)
    return {"figure": figure or f"expected_hit_rate@{n}", "best": best, "rows": rows, "contrasts": []}


def is_shown(contrast: Mapping[str, Any], results: Results) -> bool | None:
    """Does the difference stand apart from chance? None: it could not be tested, or is of a sample, which decides nothing."""
    p = contrast["p_value"] if contrast.get("p_holm") is None else contrast["p_holm"]
    bounds = contrast.get("difference_ci95") or contrast.get("ci95")
    if p is None or bounds is None or results.protocol["is_sample"]:
        return None
    return p < results.protocol["alpha"] and not bounds[0] <= 0 <= bounds[1]


# -- the five ----------------------------------------------------------------------------------------------------


def _best(results: Results) -> Sentence:
    question, table = "Which row is best?", ranking_of(results)
    own = next((row for row in table["rows"] if row["name"] == table["best"]), None)
    if own is None:
        return Sentence("best", question, "No row was ranked.", None)
    n, users = results.protocol["n_candidates"], results.protocol["n_users"]
    measured = (
        "of its ranked list" if table["figure"].startswith("top") else f"of {n} draws, as expected from its p"
    )
    bounds = "" if own["ci95"] is None else f" (95 % {interval(own['ci95'])})"
    text = f"{own['name']}: hit-rate@{n} {measured} {rate(own['value'])}{bounds} over {users:,} users"
    against = _against(table, POPULARITY)
    if own["name"] == POPULARITY:
        return Sentence("best", question, f"{text}; nothing is more than what everybody has.", False)
    if against is None:
        there = table["contrasts"] and any(row["name"] == POPULARITY for row in results.rows)
        why = (
            "Popularity draws nothing, so it is not held against draws"
            if there
            else "no comparison with Popularity is in these results"
        )
        return Sentence("best", question, f"{text}; {why}.", None)
    shown = is_shown(against, results)
    above = f"Popularity has {rate(against['value_b'])}, and the difference of {_change(against)} is "
    return Sentence("best", question, f"{text}. {above}{_told(shown, results)}.", shown)


def _next(results: Results) -> Sentence:
    question, table = "By how much, and is that sure?", ranking_of(results)
    others = [row for row in table["rows"] if row["name"] not in (table["best"], ANOTHERS)]
    if not others:
        return Sentence("next", question, "There is no second row.", None)
    text = f"Next comes {others[0]['name']} with {rate(others[0]['value'])}"
    against = _against(table, others[0]["name"])
    if against is None:
        return Sentence(
            "next", question, f"{text}; these results hold no test of the two. Evaluate again.", None
        )
    shown = is_shown(against, results)
    close = [
        one["b"] for one in table["contrasts"] if is_shown(one, results) is False and one["b"] != ANOTHERS
    ]
    text += f": the difference of {_change(against)} is {_told(shown, results)}"
    if len(close) > 1:
        names = ", ".join(close[:4]) + (f" and {len(close) - 4} more" if len(close) > 4 else "")
        text += f". Of {len(others)} others, {len(close)} are not shown to be below the best: {names}"
    return Sentence("next", question, text + ".", shown)


def _personal(results: Results) -> Sentence:
    question = "Is it personal?"
    pairs = {one["a"]: one for one in results.references.get(OWN, [])}
    other, nobody = pairs.get(ANOTHERS), results.primary
    if other is None or other.get("difference") is None:
        why = f"it takes the rows {OWN} and {ANOTHERS}, the same method given another person's vector"
        return Sentence("personal", question, f"Not measured: {why}.", None)
    other = _turned(other)
    n = results.protocol["n_candidates"]
    theirs = is_shown(other, results)
    text = (
        f"{OWN} with a person's own vector has an expected hit-rate@{n} of {rate(other['value_a'])}, with another "
        f"person's {rate(other['value_b'])}: the difference of {_change(other)} is {_told(theirs, results)}"
    )
    has_nobody = nobody["b"] == NOBODYS and nobody.get("difference") is not None
    ours = is_shown(nobody, results) if has_nobody else None
    if has_nobody:
        text += (
            f"; against one prefix for everybody ({NOBODYS}, {rate(nobody['value_b'])}): {_change(nobody)}, "
            f"{_told(ours, results)}"
        )
    is_theirs = bool(theirs) and other["difference"] > 0
    is_ours = not has_nobody or (bool(ours) and nobody["difference"] > 0)
    if theirs is None:
        head = "Not decided. "
    elif is_theirs and is_ours:
        head = "Yes. "
    elif is_theirs:
        head = "Not shown: another's vector does harm, but one's own is not shown to help. "
    elif theirs:
        head = "No: another's vector does better. "
    else:
        head = "Not shown. "
    return Sentence("personal", question, f"{head}{text}.", None if theirs is None else is_theirs and is_ours)


def _query(results: Results) -> Sentence:
    question = "What does a query change?"
    side = next((side for side in SIDES if results.queries.get(side)), None)
    found = None if side is None else results.queries[side].get("change")
    if side is None or found is None:
        why = (
            "this run asked no queries (its generator was trained without words, its items have none, or evaluate.query_instances is 0)"
            if side is None
            else "these results were made before answers with and without a query were compared; evaluate again"
        )
        return Sentence("query", question, f"Not measured: {why}.", None)
    shown = is_shown(found, results)
    text = (
        f"Asked with {SIDES[side]}, {found['a']} lists the target among {found['depth']} in {rate(found['value_a'])} of "
        f"{results.queries[side]['instances']:,} instances; without, {found['b']} does in {rate(found['value_b'])}. "
        f"The difference of {_change(found)} is {_told(shown, results)}."
    )
    return Sentence("query", question, text, shown)


def _cost(results: Results) -> Sentence:
    question, best = "What does it cost?", best_row(results)
    if best is None:
        return Sentence("cost", question, "Not measured.", None)
    by_name = {row["name"]: row for row in results.rows}
    parts = [_costs_of(best, True)]
    if OWN in by_name and best["name"] != OWN:
        parts.append(_costs_of(by_name[OWN], False))
    if POPULARITY in by_name and (ms := by_name[POPULARITY].get("latency_ms")) is not None:
        parts.append(f"{POPULARITY}: {milliseconds(ms)}")
    return Sentence("cost", question, "; ".join(parts) + ".", None)


def _costs_of(row: Mapping[str, Any], first: bool) -> str:
    said = []
    if (ms := row.get("latency_ms")) is not None:
        said.append(
            milliseconds(ms)
            + (" for a list of ten items, alone, on the machine that evaluated" if first else "")
        )
    elif (ratio := row.get("latency_ratio")) is not None:
        said.append(f"{ratio:.2f} times No Context's time for a list")
    if (tokens := row.get("context_tokens")) is not None:
        said.append(
            f"{tokens:,.3g} token{'' if tokens == 1 else 's'}"
            + (" of personal context in the prompt" if first else "")
        )
    if (stored := row.get("per_user_parameters")) is not None:
        beside = (
            " kept a user beside their history and what is made of it when they ask" if first else " a user"
        )
        said.append(f"{BYTES_A_NUMBER * stored:,.0f} bytes{beside}")
    return f"{row['name']}: " + (", ".join(said) if said else "not measured")


def milliseconds(value: float | None) -> str:
    """Two digits that count: 0.073 ms, 12 ms, 1,300 ms."""
    if value is None:
        return "–"
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"


def _against(table: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next(
        (one for one in table["contrasts"] if one["b"] == name and one["difference"] is not None), None
    )


def _turned(contrast: Mapping[str, Any]) -> dict[str, Any]:
    """The same pair, the other one first."""
    bounds = contrast["difference_ci95"]
    return {
        **contrast,
        "a": contrast["b"],
        "b": contrast["a"],
        "value_a": contrast["value_b"],
        "value_b": contrast["value_a"],
        "difference": -contrast["difference"],
        "difference_ci95": None if bounds is None else [-bounds[1], -bounds[0]],
    }


def _change(contrast: Mapping[str, Any]) -> str:
    """A difference with its interval and its p-value: +.0078 (+.0036 to +.0119, p <.001)."""
    bounds = contrast.get("difference_ci95")
    p = contrast["p_value"] if contrast.get("p_holm") is None else contrast["p_holm"]
    inside = [] if bounds is None else [f"{signed(bounds[0])} to {signed(bounds[1])}"]
    inside += [] if p is None else [f"p {p_value(p)}"]
    return signed(contrast["difference"]) + (f" ({', '.join(inside)})" if inside else "")


def _told(shown: bool | None, results: Results) -> str:
    if shown is None:
        return "of a sample, which decides nothing" if results.protocol["is_sample"] else "not tested"
    return "shown" if shown else "not shown"
