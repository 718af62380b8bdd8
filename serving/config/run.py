"""The configuration of a run: one validated object per stage, one YAML file, every default written out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import model_validator

from evaluation.table.config import EvaluateConfig
from llm.align.config import AlignConfig
from llm.methods.personalize import PersonalizeConfig
from llm.methods.user_states import OnlineConfig
from llm.stage1.config import AdaptConfig
from llm.streams.drift import DriftConfig
from recsys.config import StageConfig
from recsys.data.config import PrepareConfig
from recsys.embeddings.config import EmbedConfig
from recsys.engagement.config import EngagementConfig
from semantic_ids.tokenize_items import TokenizeConfig
from serving.config.combine import CombineConfig
from serving.config.music import MusicConfig
from serving.config.values import read_values, validated


class ExampleConfig(StageConfig):
    # whose recommendations `prelude run` ends with; None: the first user with a test instance
    user: str | None = None
    query: str | None = None  # the query of the second list; None: no second list
    n: int = 5


class RunConfig(StageConfig):
    """`seed` is the seed of every stage that does not set its own."""

    seed: int = 0
    # what nobody has set is chosen for the data, and for a machine without a GPU, once `prepare` has counted
    # (serving/config/first_look.py); `prelude` says so where it is given no configuration. Afterwards false
    first_look: bool = False
    prepare: PrepareConfig = PrepareConfig()
    embed: EmbedConfig = EmbedConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    adapt: AdaptConfig = AdaptConfig()
    personalize: PersonalizeConfig = PersonalizeConfig()
    # Products of generators and retrievers; where given, `prelude run` has a stage combine before evaluate
    combine: CombineConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    # Labelled lists; where it is given, `prelude run` goes on with the stages engagement, align and music
    engagement: EngagementConfig | None = None
    align: AlignConfig = AlignConfig()
    music: MusicConfig = MusicConfig()
    online: OnlineConfig = OnlineConfig()
    drift: DriftConfig = DriftConfig()
    example: ExampleConfig = ExampleConfig()

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

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for stage in (
            "embed",
            "tokenize",
            "adapt",
            "combine",
            "evaluate",
            "engagement",
            "music",
            "online",
            "drift",
        ):
            part = values.get(stage, None if stage in ("combine", "engagement") else {})
            if isinstance(part, dict):
                values[stage] = {"seed": values.get("seed", 0)} | part
        return values


def load_config(path: Path | None, changes: Iterable[str] = (), base: dict | None = None) -> RunConfig:
    """Read a YAML file (or start from `base`, or from the defaults) and apply `stage.key=value` changes.

    Raises `ValueError` that names the file and the field.
    """
    return validated(RunConfig, *read_values(path, changes, base))
