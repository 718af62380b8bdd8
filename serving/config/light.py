"""What of a run's configuration can be checked at once: every section whose settings need neither torch nor pandas.

`serving.config.run` has the whole; a mistake here is answered before that is imported, which takes seconds.
"""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from evaluation.table.config import EvaluateConfig
from llm.methods.config import NamedMethods, OnlineConfig
from llm.stage1.config import AdaptConfig
from llm.streams.config import DriftConfig
from recsys.config import StageConfig
from recsys.data.config import PrepareConfig
from recsys.embeddings.config import EmbedConfig
from recsys.engagement.config import EngagementConfig
from semantic_ids.config import TokenizeConfig
from serving.config.combine import CombineConfig
from serving.config.music import MusicConfig
from serving.config.track import TrackConfig


class ExampleConfig(StageConfig):
    # whose recommendations `prelude run` ends with; None: the first user with a test instance
    user: str | None = None
    query: str | None = None  # the query of the second list; None: no second list
    n: int = 5


class LightConfig(StageConfig):
    """The sections of a run, those of methods as they were given but for their names. `seed` is the seed of every stage that does not set its own."""

    seed: int = 0
    # what nobody has set is chosen for the data, and for a machine without a GPU, once `prepare` has counted
    # (serving/config/first_look.py); `prelude` says so where it is given no configuration. Afterwards false
    first_look: bool = False
    prepare: PrepareConfig = PrepareConfig()
    embed: EmbedConfig = EmbedConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    adapt: AdaptConfig = AdaptConfig()
    personalize: NamedMethods = NamedMethods()
    # Products of generators and retrievers; where given, `prelude run` has a stage combine before evaluate
    combine: CombineConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    # Labelled lists; where it is given, `prelude run` goes on with the stages engagement, align and music
    engagement: EngagementConfig | None = None
    align: Any = None
    music: MusicConfig = MusicConfig()
    online: OnlineConfig = OnlineConfig()
    drift: DriftConfig = DriftConfig()
    example: ExampleConfig = ExampleConfig()
    # tensorboard, mlflow or wandb, or {to, folder, project}: curves and final figures go there too; null: nowhere
    track: TrackConfig | None = None

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
