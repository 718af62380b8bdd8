"""Judging semantic IDs before any generator is trained on them: the report of `prelude inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.seeds import rng
from recsys.terminal import shown
from semantic_ids.new_items import chance_of_sharing
from semantic_ids.quantizer import Quantizer

QUERIES = 1000  # items whose neighbours are looked up: enough for a standard error below half a percent
NEIGHBOURS = 10


def quality_report(
    vectors: np.ndarray,
    coded: np.ndarray,
    codes: np.ndarray,
    sizes: Sequence[int],
    quantizer: Quantizer,
    seed: int,
) -> dict[str, Any]:
    """The report as a dict that JSON can hold.

    `vectors` [N, d] are the quantizer's input, `coded` [N, L] what it made of them, `codes` [N, L'] and
    `sizes` the table after the collision policy.
    """
    levels = [level_use(codes[:, level], size, level + 1) for level, size in enumerate(sizes)]
    groups = np.unique(coded, axis=0, return_counts=True)[1]
    report = {
        "n_items": len(codes),
        "levels": levels,
        "collisions": {
            "distinct_ids_before": len(groups),
            "items_sharing_before": int(groups[groups > 1].sum()),
            "largest_group_before": int(groups.max()),
            "items_moved": len(codes) - len(groups),
        },
        "reconstruction": _reconstruction(vectors, coded, codes, quantizer),
        "neighbours": neighbour_agreement(vectors, codes, seed),
    }
    return report | {"warnings": _warnings(report)}


def level_use(codes: np.ndarray, size: int, level: int) -> dict[str, Any]:
    """How one level's codes [N] are used; perplexity = exp(entropy), `size` when all are used alike."""
    counts = np.bincount(codes, minlength=size)
    share = counts[counts > 0] / len(codes)
    return {
        "level": level,
        "size": int(size),
        "in_use": int((counts > 0).sum()),
        "share_in_use": float((counts > 0).mean()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "counts": counts.tolist(),
    }


def neighbour_agreement(vectors: np.ndarray, codes: np.ndarray, seed: int) -> dict[str, Any]:
    """How often an item's nearest items by cosine share its first code, and its first two, against chance.

    Over at most `QUERIES` items (seeded) that have a direction at all, each with its `NEIGHBOURS` nearest
    others.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.ascontiguousarray(vectors / norms.clip(min=1e-12), dtype=np.float32)
    items = np.flatnonzero(norms[:, 0] > 1e-6)
    k = min(NEIGHBOURS, len(codes) - 1)
    facts: dict[str, Any] = {"k": k, "items": min(QUERIES, len(items))}
    if k < 1 or not len(items):
        return facts
    if len(items) > QUERIES:
        items = np.sort(rng(seed, "neighbours").choice(items, QUERIES, replace=False))
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    found = index.search(unit[items], k + 1)[1]
    other = found != items[:, None]
    other[other.all(axis=1), -1] = False  # many duplicates can crowd the item itself out: drop the farthest
    found = found[other].reshape(len(items), k)
    for name, depth in (("first", 1), ("first_two", 2))[: codes.shape[1]]:
        same = (codes[found, :depth] == codes[items, None, :depth]).all(-1)
        facts[f"share_{name}"] = float(same.mean())
        facts[f"chance_{name}"] = chance_of_sharing(codes[:, :depth])
    return facts


def _reconstruction(
    vectors: np.ndarray, coded: np.ndarray, codes: np.ndarray, quantizer: Quantizer
) -> dict[str, Any]:
    """Relative squared errors, 1 − explained variance: after each level, and with the table's final codes."""
    total = float(((vectors - vectors.mean(0)) ** 2).sum())

    def error(some: np.ndarray) -> float:
        return float(((vectors - quantizer.decode(some)) ** 2).sum()) / total if total > 0 else 0.0

    depth = coded.shape[1]
    by_level = [error(coded[:, : level + 1]) for level in range(depth)]
    return {
        "relative_error": by_level[-1],
        "by_level": by_level,
        "relative_error_after_policy": error(codes[:, :depth]),
    }


def _warnings(report: dict[str, Any]) -> list[str]:
    found = []
    for use in report["levels"]:
        if use["share_in_use"] < 0.95 and use["size"] <= report["n_items"]:
            found.append(
                f"level {use['level']} uses {use['in_use']} of its {use['size']} codes; "
                "make it smaller (tokenize.size) or train longer (tokenize.rqvae.steps)"
            )
    moved = report["collisions"]["items_moved"] / report["n_items"]
    if moved > 0.2:
        found.append(
            f"{moved:.0%} of the items share their codes with another and were moved; "
            "raise tokenize.size or tokenize.levels, or join text vectors (tokenize.source: joined)"
        )
    agreement = report["neighbours"]
    if agreement.get("share_first", 1.0) < 2 * agreement.get("chance_first", 0.0):
        found.append("near items hardly share first codes: the codes say little about what items are alike")
    return found


def print_quality(report: dict[str, Any], console: Console | None = None) -> None:
    """The report as terminal tables."""
    console = console or Console()
    table = Table(title=f"Semantic IDs of {report['n_items']:,} items", title_justify="left")
    for name in ("level", "codes", "in use", "perplexity", "relative error after it"):
        table.add_column(name, justify="right")
    errors = report["reconstruction"]["by_level"]
    for position, use in enumerate(report["levels"]):
        error = f"{errors[position]:.3f}" if position < len(errors) else "–"
        share = f"{use['share_in_use']:.1%}"
        table.add_row(str(use["level"]), str(use["size"]), share, f"{use['perplexity']:.1f}", error)
    console.print(table)
    facts = Table(show_header=False)
    for name, value in _facts(report):
        facts.add_row(name, shown(value))
    console.print(facts)
    for warning in report["warnings"]:
        console.print(shown("warning:", "yellow"), shown(warning))


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    collisions, near, new = report["collisions"], report["neighbours"], report.get("new_items") or {}
    rows = [
        ("items sharing their codes before the policy", f"{collisions['items_sharing_before']:,}"),
        ("items moved by the policy", f"{collisions['items_moved']:,}"),
        (
            "relative error with the final codes",
            f"{report['reconstruction']['relative_error_after_policy']:.3f}",
        ),
    ]
    for name, words in (("first", "first code"), ("first_two", "first two codes")):
        if f"share_{name}" in near:
            said = f"{near[f'share_{name}']:.1%} (chance {near[f'chance_{name}']:.1%})"
            rows.append((f"{near['k']} nearest items with the same {words}", said))
    if new.get("measured"):
        rows.append(("new items from text: cosine, held out", f"{new['cosine']:.3f}"))
        for name, words in (("first", "first code"), ("first_two", "first two codes")):
            if f"same_{name}" in new:
                said = f"{new[f'same_{name}']:.1%} (chance {new[f'chance_{name}']:.1%})"
                rows.append((f"new items from text: same {words}", said))
    elif new:
        rows.append(("new items from text", new["reason"]))
    return rows
