"""Methods that a run answers with beside its generative ones, and what tables call them; apart, so that it is known without
loading torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from recsys.run import Run

UNTRAINED = {
    "popularity": "Popularity",
    "recency": "Recency",
    "item_knn": "Item-kNN",
    "embedding_retrieval": "Embedding Retrieval",
    "sasrec": "SASRec",
    "no_context": "No Context",
}


# The similarities are not exported in the events' place: of an item that one person alone had they are that person's history
NEEDS_USERS = "item_knn"
WHY_USERS = "item-kNN is counted from users' events, and what it counts spells out histories; it needs a run with its users"


def untrained(has_sasrec: bool, of_nobody: bool) -> dict[str, str]:
    """Those of one run: SASRec answers where `embed.sasrec` is given, item-kNN where the run has users (`is_of_nobody`)."""
    gone = {key for key, is_gone in (("sasrec", not has_sasrec), (NEEDS_USERS, of_nobody)) if is_gone}
    return {key: name for key, name in UNTRAINED.items() if key not in gone}


def is_of_nobody(run: Run) -> bool:
    """Was the run exported without users?"""
    return bool((run.exported() or {}).get("without_users"))


def no_such_method(key: str, available: Sequence[str], of_nobody: bool) -> str:
    """What is said of a method that a run does not have."""
    why = f". {WHY_USERS}" if of_nobody and key == NEEDS_USERS else ""
    return f"this run has no method {key!r}; it has {', '.join(available)}{why}"
