"""Settings of Stage 2 that need no method's module: how long all methods train, which there are, what absorbing feedback may cost."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llm.methods.catalogue import listed, named
from recsys.config import StageConfig


class Stage2Config(StageConfig):
    """How long and how fast methods train; a method may set its own `steps` and `learning_rates`."""

    seeds: tuple[int, ...] = (0,)  # each method is trained once a seed; figures average them
    steps: int = 1000
    batch: int = 32  # instances a step
    # of AdamW: a pilot of `pilot_steps` from each candidate, validation picks; the papers' rates do not
    # transfer
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    pilot_steps: int = 100
    weight_decay: float = 0.01
    warmup: int = 20  # steps
    clip_norm: float = 1.0
    validate_every: int = 200  # steps
    patience: int = 4  # validations without a new best; 0: never stop early
    validation_instances: int = 500
    # of methods that train rows of single users (OPPU, PER-PCS): a user's latest events that are learned
    # from; None: all
    own_events: int | None = Field(None, ge=1)
    # … and whether users whom prepare.user_split holds out get rows too, from their own events before their
    # first test event, as the papers do with test users. These are files of their own, and nobody else's
    # bytes move
    held_out_users: bool = False


class NamedMethods(Stage2Config):
    """Section `personalize`, its methods by known names and otherwise as they were given; `llm.methods.personalize` reads them."""

    # names, `all`, or settings: see `llm.methods`
    methods: Annotated[tuple[Annotated[Any, BeforeValidator(named)], ...], BeforeValidator(listed)] = Field(
        ("no_context_continued", "static_prefix", "e2p", "prompt_context", "e2p_prompt"),
        validate_default=True,
    )


class OnlineConfig(StageConfig):
    """What absorbing feedback may cost (`passes`, `max_steps`, `batch`),
    in serving and in the experiment alike.
    """

    seed: int = 0
    method: str = "tap_per"  # key of the run's method whose P_u follows the feedback
    passes: int = Field(4, ge=1)  # over the events of an update
    max_steps: int = Field(200, ge=1)  # of an update, however many events it has
    batch: int = Field(32, ge=1)  # events a step
    learning_rate: float | None = Field(None, gt=0)  # of AdamW; None: what Stage 2 chose for the method
    chunks: int = Field(5, ge=1)  # of the stream
    bootstrap: float = Field(0.5, gt=0, lt=1)  # share of each user's events before the stream
    instances: int = Field(2000, ge=0)  # measured a chunk, a seeded sample; 0: all
    retrain: bool = True  # Full-Retrain too, which costs a whole Stage 2 a chunk
