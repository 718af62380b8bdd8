"""The settings of stage `music`: the table of playlists for queries."""

from __future__ import annotations

from pydantic import Field

from recsys.config import StageConfig


class MusicConfig(StageConfig):
    """Every list is drawn without replacement at one temperature;
    rows are those of the stage `align`, and what they are held against.
    """

    seed: int = 0
    n: int = Field(10, ge=1)  # items a list
    temperature: float = Field(1.0, gt=0)  # of every row's lists; 1 is the model's own distribution
    # temperatures that validation may choose from, for the second column of engagement
    temperature_grid: tuple[float, ...] = (0.35, 0.5, 0.7, 0.85, 1.0, 1.2)
    validation_instances: int = Field(300, ge=1)  # engaged items of validation lists by which it chooses
    rerank_from: int = Field(50, ge=1)  # candidates of No Context that Embedding Reranking chooses from
    # rows of align beside which a row has other users' vectors, and how often those are dealt out; five is
    # the protocol's least
    random_of: tuple[str, ...] = ("e2p_lm", "e2p_kto")
    random_permutations: int = Field(5, ge=1)
    # the row named before the run; compared with `control`, with its own random row and with No Context
    primary: str = "e2p_kto"
    control: str = "static_prefix_kto"
    # query and item texts for the predictor: minilm, a folder, or backbone (the mean of its frozen token
    # embeddings)
    text_encoder: str = "minilm"
