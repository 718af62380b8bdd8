"""The configuration of a run: one validated object per stage, one YAML file, every default written out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import model_validator

from llm.align.config import AlignConfig
from llm.methods.personalize import PersonalizeConfig
from serving.config.light import LightConfig
from serving.config.values import read_values, validated


class RunConfig(LightConfig):
    """All sections, those of methods with their settings."""

    personalize: PersonalizeConfig = PersonalizeConfig()
    align: AlignConfig = AlignConfig()

    @model_validator(mode="after")
    def _music_rows_are_trained(self) -> RunConfig:
        trained = [row.key for row in self.align.rows]
        if self.engagement is not None:
            for key in (self.music.primary, self.music.control):
                if key not in trained:
                    raise ValueError(
                        f"music compares the row {key!r}, which align.rows does not train; it trains "
                        f"{', '.join(trained)}"
                    )
        return self


def load_config(path: Path | None, changes: Iterable[str] = (), base: dict | None = None) -> RunConfig:
    """Read a YAML file (or start from `base`, or from the defaults) and apply `stage.key=value` changes.

    Raises `ValueError` that names the file and the field.
    """
    return validated(RunConfig, *read_values(path, changes, base))
