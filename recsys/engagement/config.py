"""Lists as they are made, and the settings of it (stage `engagement`, `recsys.engagement.label_lists`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from recsys.config import StageConfig


class EngagementConfig(StageConfig):
    """How labelled lists are made. See the module for what each source calls engaged."""

    seed: int = 0
    # file: `lists` below; kinds: events that are for and against (prepare.events); ratings: the run's ratings; tags: its queries;
    # auto: the first of these that the run has
    source: Literal["auto", "file", "kinds", "ratings", "tags"] = "auto"
    lists: Path | None = None  # CSV, TSV, JSON lines or Parquet: user_id, timestamp, query, item_id, engaged
    columns: dict[str, str] = Field(default_factory=dict)  # our column name → yours, in that file
    # Share of that file's rows whose item, and of those that name a user whose user, the run must know
    min_known: float = Field(0.5, ge=0, le=1)
    like_rating: float = 4.0  # stars from which a rated item counts as engaged; MovieLens: 48 % of ratings
    session_gap_s: int = Field(
        3600, ge=0
    )  # seconds without a rating, or a like or dislike, that end a session
    max_shown: int = Field(10, ge=1)  # items a list
    pair_share: float = Field(0.3, ge=0, le=1)  # share of lists of sessions whose query has two phrases
    predictor_users: float = Field(0.5, gt=0, lt=1)  # share of users whose lists the predictor learns from
    test_lists: int = Field(1000, ge=1)  # the paper's number of test queries; fewer where there are fewer


@dataclass
class Drafts:
    """Lists as they are made: user, time, query, items and labels in the order shown."""

    rows: list[tuple[int, int, str, list[int], list[bool]]] = field(default_factory=list)

    def add(self, user: Any, time: Any, query: Any, items: Iterable, labels: Iterable) -> None:
        self.rows.append(
            (int(user), int(time), str(query), [int(i) for i in items], [bool(x) for x in labels])
        )
