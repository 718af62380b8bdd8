"""What a refresh says of itself, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serving.refresh.refresh import Version


def told(run: str, found: Version, dry_run: bool) -> Iterator[str]:
    """The lines, the outcome last."""
    yield from found.said
    facts = found.facts
    if found.published or found.refused or (dry_run and facts):
        yield from _changes(facts)
        yield from _gate(facts.get("gate", {}))
    if found.update is not None:
        done = found.update
        yield (
            f"events: {done.events:,} absorbed of {done.users:,} people ({done.new_users:,} new; {done.known:,} known before)"
            if done.absorbed
            else "events: absorbed before; none is taken twice"
        )
        for counted in done.ignored.values():
            yield f"events of items that are unknown: {counted}"
    if found.refused:
        for name, why in found.refused.items():
            yield f"refused ({name}): {why}"
        yield f"not published: {_named(found.number)} goes on serving. If it is meant so: --accept {' --accept '.join(found.refused)}"
    elif dry_run:
        yield f"nothing was changed (--dry-run): {_named(found.number)} serves"
    elif found.published:
        yield f"{run}: version {found.number} serves, after {found.seconds:.1f} s; back: prelude refresh {run} --back"
    else:
        yield f"{run}: {_named(found.number)} serves"


def _named(number: int) -> str:
    return f"version {number}" if number else "the run as it was trained"


def _changes(facts: dict[str, Any]) -> Iterator[str]:
    counts = facts.get("changes", {})
    yield f"items: {facts.get('items', 0):,} served; " + ", ".join(
        f"{n:,} {name}" for name, n in counts.items()
    )
    coded = facts.get("coded", {})
    if coded.get("coded"):
        yield (
            f"semantic IDs: {coded['coded']:,} items coded, {coded['beside_their_node']:,} of them beside their node, which is full (prelude inspect says "
            "when coding anew pays); "
            f"{coded['with_a_brought_vector']:,} have a vector that was brought"
        )
    if counts.get("changed"):
        yield "changed titles or words are shown and searched; codes stay (--recode codes them anew)"
    for what, found in facts.get("embeddings", {}).items():
        rest = ", ".join(
            f"{value:,} {name.replace('_', ' ')}" for name, value in found.items() if isinstance(value, int)
        )
        yield f"embeddings of {what}: {found['alignment']}; {rest}"


def _gate(figures: dict[str, Any]) -> Iterator[str]:
    rates = figures.get("hit_rate@30")
    if rates is None:
        if "questions" in figures:
            yield f"gate: {figures['questions']} of yesterday's events could be asked, too few to judge answers by"
        return
    mean, low, high = figures["difference"]
    yield (
        f"gate: hit-rate@30 on {figures['questions']} of yesterday's events {rates['before']:.4f} before, {rates['after']:.4f} after "
        f"(difference {mean:+.4f}, 95 % from {low:+.4f} to {high:+.4f}, {figures['people']} people); answers of nobody "
        f"{figures['cold']['before']:.1%} and {figures['cold']['after']:.1%}"
    )
