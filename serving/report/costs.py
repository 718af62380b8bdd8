"""Pictures of what the methods cost: what is stored, here and at the papers' size, and admission."""

from __future__ import annotations

from typing import Any

from evaluation.report.cost_plots import admission, storage

STORAGE_CAPTION = (
    "Numbers that are kept for so many users: those of each user, and those shared by all. A user's own "
    "vector, which the service has anyway, is not counted. On the right the shapes of Llama-3.1-8B (the "
    "papers' backbone)."
)
ADMISSION_CAPTION = (
    "Seconds between a user's last event and the first answer that a method can give them, one user a point, "
    "on this machine: reading them once, or training what is theirs."
)


def cost_pictures(costs: dict[str, Any]) -> list[tuple[str, str, bytes | None]]:
    """Storage against users, here and at the papers' size, and admission against history:
    (heading, caption, PNG).
    """
    alike: dict[tuple[float, float], list[str]] = {}
    for name, row in costs["rows"].items():
        if row["shared_parameters"] is not None and (row["per_user_parameters"] or row["shared_parameters"]):
            alike.setdefault((row["per_user_parameters"], row["shared_parameters"]), []).append(name)
    panels = {
        "this run": {" = ".join(names[:2]) + " …" * (len(names) > 2): pair for pair, names in alike.items()},
        "Llama-3.1-8B, the papers' ranks": at_papers_size(),
    }
    lengths, seconds = costs["admission"]["lengths"], costs["admission"]["seconds"]
    return [
        ("What is stored", STORAGE_CAPTION, storage(panels)),
        ("Admitting a new user", ADMISSION_CAPTION, admission(lengths, seconds)),
    ]


def at_papers_size(hidden: int = 4096, kv: int = 1024, layers: int = 32) -> dict[str, tuple[float, float]]:
    """Numbers (per user, shared) on Llama-3.1-8B, counted from shapes with the papers' ranks.

    LoRA of rank r on q, k, v, o: r · (4 · hidden + 2 · (hidden + kv)) a layer. TAP-PER: L · hidden, a
    bridge of rank 4, and the paper's 201M of scorer and projection; PER-PCS: 50 sharers' pieces of
    rank 8, 2 · 3 numbers a module and user; P2P (ours: a trunk of 512, heads for q and v of rank 8);
    E2P: 100,000 and nothing per user.
    """
    attention = layers * (4 * hidden + 2 * (hidden + kv))
    q_and_v = layers * (2 * hidden + (hidden + kv))
    return {
        "OPPU, LoRA on q, k, v, o": (8 * attention, 0),
        "OPPU, LoRA on q, v": (8 * q_and_v, 0),
        "PER-PCS": (2 * 3 * 4 * layers, 50 * 8 * attention),
        "TAP-PER": (8 * hidden, 4 * attention + 201e6),
        "P2P": (0, 512 * 8 * (3 * hidden + kv) + 512 * (384 + 512)),
        "E2P": (0, 100_000),
    }
