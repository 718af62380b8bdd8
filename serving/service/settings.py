"""The settings of a service: limits, waits, which events are history, and arms of experiments."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from recsys.config import StageConfig
from serving.config.values import read_values, validated

TYPES = ("click", "play", "like", "skip", "dislike", "impression")


# of an experiment or an arm: lists are kept with "name=arm", by comma
Name = Annotated[str, StringConstraints(pattern=r"^[^,=\x00-\x1f]{1,60}$")]


class ArmOptions(StageConfig):
    """What an arm asks with where the caller does not say."""

    method: str | None = None
    temperature: float | None = Field(None, ge=0)
    strength: float | None = Field(None, ge=0, le=1)
    order: Literal["as made", "smooth", "score"] | None = None
    sequence: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that the arm sets."""
        return self.model_dump(exclude_none=True)


class Experiment(StageConfig):
    """Users dealt into arms of equal size by a hash of (salt, user)."""

    salt: str = Field(min_length=1)
    arms: dict[Name, ArmOptions] = Field(min_length=2)

    def arm_of(self, user_id: str) -> str:
        """Whose arm, the same in every process and for all time."""
        digest = hashlib.sha256(json.dumps([self.salt, user_id]).encode()).digest()
        return sorted(self.arms)[int.from_bytes(digest[:8], "big") % len(self.arms)]


class ServiceConfig(StageConfig):
    """`service.yaml`: every field has a default, and an unknown one is an error."""

    # seconds that the first of a micro-batch waits for others; none where 0
    longest_wait_s: float = Field(0.003, ge=0, le=1)
    # threads that the model's arithmetic has in a process; None: those of OMP_NUM_THREADS, else all processors but the one that answers
    threads: int | None = Field(None, ge=1)
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
    # do rows of P_u learn from events, when nobody waits? (In runs that have the method `online.method`.)
    learn: bool = True
    # are lists kept, with their probabilities? `prelude value` and `next` need it
    keep_shown: bool = True

    # name -> arms; two experiments may not set the same option
    experiments: dict[Name, Experiment] = Field({})

    @model_validator(mode="after")
    def _apart(self) -> ServiceConfig:
        owner: dict[str, str] = {}
        for name, experiment in self.experiments.items():
            for option in {option for arm in experiment.arms.values() for option in arm.given}:
                if owner.setdefault(option, name) != name:
                    raise ValueError(
                        f"experiments {owner[option]} and {name} both set {option}; only one can"
                    )
        longest = [len(name) + 2 + max(map(len, one.arms)) for name, one in self.experiments.items()]
        if sum(longest) > 200:
            raise ValueError("names of experiments and their arms come to more than 200 characters")
        return self

    def arms_of(self, user_id: str | None) -> tuple[str | None, dict[str, Any]]:
        """A user's arms ("name=arm", by comma) and what they ask with; None and nothing for nobody."""
        if user_id is None or not self.experiments:
            return None, {}
        arms = {name: experiment.arm_of(user_id) for name, experiment in sorted(self.experiments.items())}
        options: dict[str, Any] = {}
        for name, arm in arms.items():
            options |= self.experiments[name].arms[arm].given
        return ",".join(f"{name}={arm}" for name, arm in arms.items()), options

    @field_validator("taken")
    @classmethod
    def _types(cls, taken: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := sorted(set(taken) - set(TYPES)):
            raise ValueError(f"{', '.join(wrong)}: types of events are {', '.join(TYPES)}")
        return taken


def load_settings(path: Path | None) -> ServiceConfig:
    """Settings of a YAML file; the defaults without one. Raises `ValueError` naming the file and the field."""
    return validated(ServiceConfig, *read_values(path))
