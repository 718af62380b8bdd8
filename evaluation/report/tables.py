"""What the tables say, as text: columns, how a figure is printed, and the protocol in plain sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluation.table.results import Results
from evaluation.table.rows import COSTS

NONE = "–"  # a figure that does not exist
Column = tuple[str, str, Callable[[Any], str]]  # heading, key in the row, how to print it
TitledTable = tuple[str, Sequence[Column], Sequence[Mapping]]  # title, columns, rows


def rate(value: float | None) -> str:
    """A fraction of 1 with four digits and no leading zero: .0579."""
    return NONE if value is None else _bare(f"{value:.4f}")


def signed(value: float | None) -> str:
    return NONE if value is None else _bare(f"{value:+.4f}")


def _bare(digits: str) -> str:
    """Without the zero before the point: 0.5 → .5, −0.5 → −.5, 10.5 as it is."""
    return re.sub(r"^([+-]?)0\.", r"\1.", digits)


def interval(bounds: Sequence[float] | None) -> str:
    return NONE if bounds is None else f"{rate(bounds[0])}–{rate(bounds[1])}"


def signed_interval(bounds: Sequence[float] | None) -> str:
    return NONE if bounds is None else f"{signed(bounds[0])}, {signed(bounds[1])}"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{value:+.1f} %"


def p_value(value: float | None) -> str:
    if value is None:
        return NONE
    return "<.001" if value < 0.001 else _bare(f"{value:.3f}")


def number(digits: int) -> Callable[[float | None], str]:
    return lambda value: NONE if value is None else f"{value:,.{digits}f}"


def text(value: Any) -> str:
    return NONE if value in (None, "") else str(value)


def figure_columns(results: Results) -> list[Column]:
    """The first table: what each row measured."""
    n, cuts = results.protocol["n_candidates"], results.protocol["top_k"]
    columns: list[Column] = [
        ("Row", "name", text),
        ("tokens", "context_tokens", number(0)),
        ("sampled", f"hit_rate@{n}", rate),
        ("expected", f"expected_hit_rate@{n}", rate),
        ("95 % interval", "ci95", interval),
        ("distinct", f"distinct{n}", rate),
        (f"top {n}", f"top{n}", rate),
        *((f"R@{k}", f"recall@{k}", rate) for k in cuts),
        *((f"N@{k}", f"ndcg@{k}", rate) for k in cuts),
        ("nats", "entropy_nats", number(2)),
        ("z", "sampled_minus_expected_z", number(1)),
    ]
    if any(row["temperature"] is not None for row in results.rows):
        columns += [
            ("t", "temperature", number(2)),
            ("exp. at t", f"expected_hit_rate@{n}_at_temperature", rate),
        ]
    return columns


def difference_columns(results: Results) -> list[Column]:
    """The second table: each row against the baseline."""
    return [
        ("Row", "name", text),
        ("by", "compared_on", lambda key: "expected" if key.startswith("expected") else "ranked"),
        ("relative", "relative_to_no_context_pct", percent),
        ("difference", "difference", signed),
        ("95 % interval", "difference_ci95", signed_interval),
        ("bootstrap", "bootstrap_ci95", signed_interval),
        ("p", "p_value", p_value),
        ("p, Holm", "p_holm", p_value),
        ("detectable", "smallest_detectable_difference", rate),
    ]


def reference_columns() -> list[Column]:
    """Each row against a reference row, from `Results.references` or `Results.effects`."""
    return [
        ("Row", "a", text),
        ("by", "figure", lambda key: "expected" if key.startswith("expected") else "ranked"),
        ("relative", "relative_pct", percent),
        ("difference", "difference", signed),
        ("95 % interval", "difference_ci95", signed_interval),
        ("p", "p_value", p_value),
        ("p, Holm", "p_holm", p_value),
        ("detectable", "smallest_detectable_difference", rate),
    ]


def effect_columns(results: Results) -> list[Column]:
    """The primary row against the other controls."""
    by, *figures = reference_columns()[1:]
    return [
        ("Against", "b", text),
        by,
        *figures[:3],
        ("bootstrap", "bootstrap_ci95", signed_interval),
        *figures[3:],
    ]


def cost_columns() -> list[Column]:
    """What a row costs to keep, to admit a user to, and to ask."""
    return [
        ("Row", "name", text),
        ("stored per user", "per_user_parameters", number(0)),
        ("shared", "shared_parameters", number(0)),
        ("seconds to admit", "seconds_to_admit", lambda s: NONE if s is None else f"{s:.2g}"),
        ("latency ratio", "latency_ratio", number(2)),
        ("ms", "latency_ms", number(2)),
        ("tokens", "context_tokens", number(0)),
    ]


def all_tables(results: Results) -> list[TitledTable]:
    """Every table of figures in order: title, columns, rows. Those with nothing to say are left out."""
    facts, first = results.protocol, results.primary["a"]
    n, base = facts["n_candidates"], facts["baseline"]
    tables: list[TitledTable] = [
        *ranking_tables(results),
        (f"Hit-rate@{n} and more, means over users", figure_columns(results), results.rows),
        (f"Against {base}", difference_columns(results), results.rows),
    ]
    if results.effects and first not in results.references:
        tables.append((f"{first} against the other rows", effect_columns(results), results.effects))
    for name, contrasts in results.references.items():
        if name != base:
            others = [one for one in contrasts if one["a"] != name]
            tables.append((f"Against {name}", reference_columns(), others))
    tables += matched_tables(results)
    for grouping, groups in results.groups.items():
        tables += group_tables(grouping, groups, base, n)
    if any(row.get(cost) is not None for row in results.rows for cost in COSTS):
        costs = [dict.fromkeys(COSTS) | row for row in results.rows]
        tables.append(("What it costs", cost_columns(), costs))
    return tables


def ranking_tables(results: Results) -> list[TitledTable]:
    """All rows by the figure that finds the best, and the best against every other; none for older results."""
    found = results.ranking
    if not found or found["best"] is None:
        return []
    columns: list[Column] = [
        ("Row", "name", text),
        ("value", "value", rate),
        ("95 % interval", "ci95", interval),
    ]
    _, _, *figures = reference_columns()
    against = [("Against", "b", text), *figures]
    family = f"p by Holm over {found['n_tests_in_holm_family']} pairs"
    return [
        (f"All rows, ranked by {found['figure']}", columns, found["rows"]),
        (f"Against the best, {found['best']} ({family})", against, found["contrasts"]),
    ]


def method_table(results: Results) -> TitledTable:
    """What each row reads of a test user, and what it trains."""
    columns: list[Column] = [
        ("Row", "name", text), ("reads of a test user’s history", "reads", text), ("trains", "trained", text),
        ("replicas", "n_replicas", text),
    ]  # fmt: skip
    return "What each row reads and trains", columns, results.rows


def matched_tables(results: Results) -> list[TitledTable]:
    """Rows at the one temperature that validation's log-likelihood gave each, and their tests there."""
    found, n = results.matched, results.protocol["n_candidates"]
    if not found:
        return []
    columns: list[Column] = [
        ("Row", "name", text),
        ("t", "temperature", number(2)),
        ("nats a target", "nats", number(3)),
        ("95 % interval ", "nats_ci95", _nats_interval),
        ("expected", f"expected_hit_rate@{n}", rate),
        ("95 % interval", f"expected_hit_rate@{n}_ci95", interval),
    ]
    tables: list[TitledTable] = [("At matched calibration", columns, found["rows"])]
    compared: list[Column] = [
        ("Row", "a", text),
        ("relative", "relative_pct", percent),
        ("difference", "difference", signed),
        ("95 % interval", "difference_ci95", signed_interval),
        ("p", "p_value", p_value),
        ("p, Holm", "p_holm", p_value),
        ("nats", "nats", number(3)),
        ("p of nats", "nats_p", p_value),
        ("p, Holm ", "nats_p_holm", p_value),
    ]
    for reference, measures in found["references"].items():
        pairs = zip(measures["expected_matched"], measures["log_p_matched"], strict=True)
        rows = [
            one | {"nats": other["difference"], "nats_p": other["p_value"], "nats_p_holm": other["p_holm"]}
            for one, other in pairs
        ]
        tables.append((f"Against {reference}, at matched calibration", compared, rows))
    return tables


def _nats_interval(bounds: Sequence[float] | None) -> str:
    return NONE if bounds is None else f"{bounds[0]:.3f}, {bounds[1]:.3f}"


def group_tables(grouping: str, groups: Sequence[Mapping], base: str, n: int) -> list[TitledTable]:
    """Two tables, a column a group: the rows' own figures, and their differences to the baseline."""
    heads = [f"{one['group']}\n{one['n_users']:,} users\n{one['n_instances']:,} inst." for one in groups]
    names = [row["name"] for row in groups[0]["rows"]]
    rows = [
        {"name": name} | {str(at): one["rows"][place] for at, one in enumerate(groups)}
        for place, name in enumerate(names)
    ]

    def columns(show: Callable[[Any], str]) -> list[Column]:
        return [("Row", "name", text), *((head, str(at), show) for at, head in enumerate(heads))]

    return [
        (f"By {grouping}: hit-rate@{n} ± 95 %", columns(_own), rows),
        (f"By {grouping}: difference to {base} ± 95 %", columns(_change), rows),
    ]


def _own(row: Mapping) -> str:
    return rate(row["value"]) + _half(row["value"], row["ci95"])


def _change(row: Mapping) -> str:
    return signed(row["difference"]) + _half(row["difference"], row["difference_ci95"])


def _half(value: float, bounds: Sequence[float] | None) -> str:
    """Half the width of an interval; the wider half where a rate's interval was cut at 0 or 1."""
    return "" if bounds is None else f" ±{rate(max(value - bounds[0], bounds[1] - value))}"


def describe(results: Results) -> list[str]:
    """The protocol, and last what the p-values can and cannot decide, in plain sentences."""
    facts, n, cuts = results.protocol, results.protocol["n_candidates"], results.protocol["top_k"]
    recalls, ndcgs = (", ".join(f"{letter}@{k}" for k in cuts) for letter in "RN")
    return [
        _instances(facts),
        f"Sampled: hit-rate@{n} of {n} i.i.d. draws at temperature {facts['temperature']:g} "
        f"({len(facts['draw_seeds'])} draw seed(s)). Expected: 1 − (1 − p)^{n} from exact scoring, the same "
        "quantity without the noise of the draws; z is their difference in standard errors (beyond about 4 "
        "the row is red).",
        f"Distinct: hit-rate of {n} items drawn without replacement. It and the sampled one move with the "
        f"entropy alone, so that stands beside them (nats). Top {n}, {recalls} (Recall) and {ndcgs} (NDCG) "
        f"are of the ranked list. Distinct and ranked lists were measured on {facts['list_columns_on']}.",
        "Deterministic rows have no draws: their 95 % interval is that of the ranked list's hit-rate, and "
        f"they are compared with {facts['baseline']}'s ranked list (“ranked”), not with its draws.",
        "All intervals are over users: each user's instances and replicas are averaged first. The interval "
        "of a difference is that of the paired difference, with a bootstrap over users and seeds beside it.",
        *_groups(results),
        *([f"Left out of the table: {facts['left_out']}."] if "left_out" in facts else []),
        *([facts["weights"] + "."] if facts.get("weights", "as trained") != "as trained" else []),
        verdict(results),
    ]


def _groups(results: Results) -> list[str]:
    if not results.groups:
        return []
    return [
        f"By {' and by '.join(results.groups)}: within a group only its own instances count, and only its "
        "users. Rows without draws show their ranked list's hit-rate. The intervals are not corrected for "
        "the many groups, and no test is made of them."
    ]


def _instances(facts: dict[str, Any]) -> str:
    words = f"{facts['n_instances']:,} test instances of {facts['n_users']:,} users"
    if facts["is_sample"]:
        words += (
            f", a seeded sample of the {facts['n_instances_available']:,} instances of "
            f"{facts['n_users_with_target']:,} users (seed {facts['sample_seed']})"
        )
    missing = facts.get("users_without_held_out_item")
    are = "user has" if missing == 1 else "users have"
    return words + (f"; {missing:,} {are} no held-out item and are left out." if missing else ".")


def verdict(results: Results) -> str:
    """What the p-values decide: the primary comparison, named before the run; nothing on a mere sample."""
    facts, first = results.protocol, results.primary
    words = f"Primary comparison, named before the run: {first['a']} against {first['b']}. {first['reading']}"
    if first["smallest_detectable_difference"] is not None:
        words += (
            f" With {first['n_users']:,} users the smallest difference found with "
            f"{facts['power']:.0%} chance is "
            f"{rate(first['smallest_detectable_difference'])} ({percent(first['smallest_detectable_pct'])})."
        )
    words += f" The other p-values form one family of {facts['n_tests_in_holm_family']}, corrected by Holm."
    return words
