"""The report's part on five real users: their lists side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADING = "Five people, and what they would be shown"
HOW = (
    "Real users of the test, one from each fifth by how much they had had before, by a seed and not by how well it goes. Each list is the "
    "row’s best, without what they have had where that may not come again. Green: what they really had next."
)


def people_section(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`people.json` of the stage `evaluate` for the page; None where there is none, or nobody is left in it."""
    if not found or not found["users"]:
        return None
    return {
        "heading": HEADING,
        "how": HOW,
        "people": [_person(found, at) for at in range(len(found["users"]))],
    }


def _person(found: Mapping[str, Any], at: int) -> dict[str, Any]:
    target, events = found["target"][at], found["events"][at]
    past = [{"title": title, "is_target": False} for title in found["history"][at] if title]
    lists = [
        {"name": name, "items": [{"title": title, "is_target": title == target} for title in titles if title]}
        for name, titles in zip(found["rows"], found["lists"][at], strict=True)
    ]
    return {
        "name": f"User {found['user_id'][at]}",
        "about": f"{events:,} event{'' if events == 1 else 's'} before",
        "target": target,
        "columns": [{"name": "had last, newest first", "items": past}, *lists],
    }
