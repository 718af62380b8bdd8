"""The settings of a service: limits, waits, which events are history, and arms of experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from recsys.config import StageConfig

TYPES = ("click", "play", "like", "skip", "dislike", "impression")


class ServiceConfig(StageConfig):
    """`service.yaml`: every field has a default, and an unknown one is an error."""

    # seconds that the first of a micro-batch waits for others; none where 0
    longest_wait_s: float = Field(0.003, ge=0, le=1)
    # requests of one packed pass
    most_together: int = Field(32, ge=1, le=1024)
    # requests in the line; more are told to come again (429)
    most_waiting: int = Field(512, ge=1)
    # seconds after which a request is told that it took too long (503)
    timeout_s: float = Field(30.0, gt=0)
    # MiB of a body; of a named list's, which may be millions of ids
    body_mb: float = Field(4.0, gt=0)
    list_mb: float = Field(256.0, gt=0)
    # requests of one call of /v1/recommend:batch, and events of one of /v1/events
    requests_at_once: int = Field(64, ge=1)
    events_at_once: int = Field(1000, ge=1)
    # calls a second of a key (without keys: of an address), and how many may come at once; None: as many as come
    rate_per_s: float | None = Field(None, gt=0)
    burst: int = Field(100, ge=1)
    # types of events that a history is made of; the others are kept, and count as shown or turned down
    taken: tuple[str, ...] = ("click", "play", "like")
    # are lists kept, with their probabilities? `prelude value` and `next` need it
    keep_shown: bool = True

    @field_validator("taken")
    @classmethod
    def _types(cls, taken: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := sorted(set(taken) - set(TYPES)):
            raise ValueError(f"{', '.join(wrong)}: types of events are {', '.join(TYPES)}")
        return taken


def load_settings(path: Path | None) -> ServiceConfig:
    """Settings of a YAML file; the defaults without one. Raises `ValueError` naming the file and the field."""
    if path is None:
        return ServiceConfig()
    values: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected settings of the service, one a line")
    return ServiceConfig.model_validate(values)
