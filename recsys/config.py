"""The base of every stage's configuration: frozen, validated, and strict about unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StageConfig(BaseModel):
    """One stage's settings. An unknown key or a wrong type is an error that names the field."""

    # defaults are validated too: a default of 50 for a float is the 50.0 that a configuration read from its file has
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
