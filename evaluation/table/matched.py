"""The rows at matched calibration: each at the one temperature that validation's log-likelihood gave it, and their tests there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.table.comparisons import MeasuredRows, contrast, corrected

MEASURES = ("expected_matched", "log_p_matched")


def matched_calibration(
    table: MeasuredRows,
    temperatures: Mapping[str, float | None],
    primary: tuple[str, str],
    references: Sequence[str],
) -> dict[str, Any]:
    """`rows`: name, temperature, nats (log-likelihood of a target), expected hit-rate, each a mean over users, with its 95 %
    interval. `primary`, and `references` (reference -> each row minus it), of both measures: measure -> contrast. Holm is over the pairs of a
    measure that are not the primary one. Empty where no row has a fitted temperature.
    """
    names = [name for name in table.measured if "expected_matched" in table.measured[name]]
    if not names:
        return {}
    rows = list[dict[str, Any]]()
    for name in names:
        own: dict[str, Any] = {}
        for measure, label in zip(MEASURES, (f"expected_hit_rate@{table.n}", "nats"), strict=True):
            own[label], own[f"{label}_ci95"] = table.mean_and_interval(name, measure)
        rows.append({"name": name, "temperature": temperatures[name]} | own)
    has_primary = set(primary) <= set(names)
    first = {one: contrast(table, *primary, figure=one) for one in MEASURES} if has_primary else {}
    against = {
        reference: {
            one: [contrast(table, name, reference, False, one) for name in names if name != reference]
            for one in MEASURES
        }
        for reference in references
        if reference in names
    }
    tests = {one: corrected([c for some in against.values() for c in some[one]], primary) for one in MEASURES}
    return {"rows": rows, "primary": first, "references": against, "n_tests_in_holm_family": tests}
