"""Settings of `drift`; see `llm.streams.drift`."""

from __future__ import annotations

from pydantic import Field

from recsys.config import StageConfig


class DriftConfig(StageConfig):
    seed: int = 0
    method: str = "e2p"  # key of the run's method whose φ is frozen
    chunks: int = Field(3, ge=1)  # of the held-out stream; a LightGCN is trained before each
    instances: int = Field(2000, ge=0)  # measured a chunk, a seeded sample; 0: all
