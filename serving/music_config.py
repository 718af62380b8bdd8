"""The settings of stage `music`: the table of playlists for queries."""

from __future__ import annotations

from pydantic import Field

from recsys.config import StageConfig


class MusicConfig(StageConfig):
    """Every list is drawn without replacement at one temperature; rows are those of the stage `align`, and what they are held against."""

    seed: int = 0
    n: int = Field(10, ge=1)  # items a list
    temperature: float = Field(1.0, gt=0)  # of every row's lists; 1 is the model's own distribution
    rerank_from: int = Field(50, ge=1)  # candidates of No Context that Embedding Reranking chooses from
    random_of: tuple[str, ...] = ("e2p_lm", "e2p_kto")  # rows of align that get an E2P-Random beside them
    random_permutations: int = Field(
        5, ge=1
    )  # how often it deals out other users' vectors; five is the protocol's least
    primary: str = "e2p_kto"  # the row named before the run, compared with `control` and with No Context
    control: str = "static_prefix_lm"
    # query and item texts for the predictor: minilm, a folder, or backbone (the mean of its frozen token embeddings)
    text_encoder: str = "minilm"
