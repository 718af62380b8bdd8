"""A row of the table before it is measured: its recommenders, what they read, train and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recsys.recommender import Recommender

COSTS = ("per_user_parameters", "shared_parameters", "seconds_to_admit", "latency_ratio", "latency_ms")


@dataclass(frozen=True)
class Row:
    """One line of the table. Replicas (training seeds; E2P-Random's permutations)
    are averaged per instance first.
    """

    name: str
    replicas: list[Recommender]
    temperature: float | None = None  # the temperature that validation chose; None if it chose none
    reads: str = ""  # what it may read of a test user's history before the instance
    trained: str = ""  # what it trains, and for how many seconds
    # what it costs, as far as it is known: parameters stored per user and shared by all,
    # seconds from a new user's events to a first answer beyond what any user costs, time of an
    # answer as a multiple of the baseline's
    costs: Mapping[str, float | None] = field(default_factory=dict)
    matched: float | None = (
        None  # the temperature at which validation's targets are likeliest (evaluation.calibration)
    )
    nats: float | None = None  # log-likelihood of a validation target at `matched`
    is_baseline: bool = False  # what one would have without this project: retrieval, counts
