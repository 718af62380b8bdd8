"""Settings of the stage `adapt`: the backbone, the form of an item, what Stage 1 trains on and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llm.backbone.config import BackboneConfig
from llm.prompts.config import PromptConfig
from recsys.config import StageConfig


class AdaptConfig(StageConfig):
    seed: int = 0
    backbone: BackboneConfig = BackboneConfig()
    prompts: PromptConfig = PromptConfig()
    # how an item is read, and how its codes are written (llm.backbone.heads). codes, tokens: each code is a token of the
    # backbone, in and out. vector, depth: an item is one position in, and a small head over the levels out, so that
    # a window has a fraction of the positions and a request costs one prompt pass
    items: Literal["codes", "vector"] = "codes"
    head: Literal["tokens", "depth"] = "tokens"
    # a learned projection of the vector that the tokenizer read of an item, added to its codes' rows (items: vector)
    item_projection: bool = False
    head_width: int = Field(256, ge=1)  # inner width of the head's blocks (head: depth)
    # the last level also asks the items below its node what they are: a query of the state times the first so many principal components
    # of their vectors (head: depth). text: of their texts; joined: of all that the tokenizer read of them. Collaborative vectors
    # have learned from the very events that Stage 1 learns from: where an item has few, a query trusts them too much (LOG.md)
    head_asks: Literal["text", "joined"] | None = None
    head_asks_dims: int = Field(64, ge=1)
    head_layers: int = Field(1, ge=0)  # blocks a level (head: depth); 0: the codes so far are only added
    # lora: an LLM stays as it is under an adapter; full: every weight is trained (and saved), for `scratch`
    # backbones
    train: Literal["lora", "full"] = "lora"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    )  # attention, as TAP-PER; the MLP costs time
    steps: int = Field(2000, ge=1)  # optimiser steps
    batch: int = Field(32, ge=1)  # windows a step
    window_items: int = Field(
        12, ge=1
    )  # items a window; every one is a target, so longer windows cost less a target
    profile_share: float = 0.5  # share of windows that carry the text profile: Prompt Context is trained for
    query_share: float = 0.15  # share of windows that carry a query about their last item
    # what the rows of semantic-ID tokens start from: codebook vectors, or these and the words of a code's
    # items; auto: words too, unless the backbone is trained from scratch and knows no words
    rows_from: Literal["auto", "codebook", "words"] = "auto"
    words_batch: int = Field(16, ge=0)  # rows a step from words to an item's ID (llm.stage1.words)
    title_batch: int = Field(4, ge=0)  # rows a step from an item's ID to its title
    title_weight: float = Field(0.1, ge=0)  # of their loss, a mean over text tokens, beside the items'
    records_share: float = 0.1  # share of windows that carry retrieved records: RAG and PAG are trained for
    # rows a step that stand behind a soft token of their user's vector (llm.stage1.soft), so that the frozen model has learned to
    # listen to one; 0: none. Their loss, a mean over rows, weighs `soft_weight` beside the windows'
    soft_batch: int = Field(0, ge=0)
    soft_items: int | None = Field(
        None, ge=0
    )  # the most items that such a row shows; null: prompts.recent_items
    soft_weight: float = Field(1.0, gt=0)
    soft_bottleneck: int = Field(142, ge=1)  # d_c of φ₀; Stage 2's φ starts from it where it has the same
    # rows a step that learn the whole distribution of the retrievers' product at the ends of training histories, of which no retriever has
    # seen what follows (llm.stage1.taught); 0: none. Their loss, a mean over rows, weighs `taught_weight` beside the windows'. Half of them
    # stand behind a soft token where soft_batch is set
    taught_batch: int = Field(0, ge=0)
    taught_weight: float = Field(1.0, gt=0)
    taught_draws: int = Field(
        4, ge=1
    )  # items drawn a row: the nodes on the way to them are asked below the root
    learning_rate: float = 1e-3  # of the LoRA, or of all weights (AdamW)
    rows_learning_rate: float = 5e-3  # of the semantic-ID rows, which start from nothing
    weight_decay: float = 0.01
    # against learning training sequences by heart, for backbones trained from scratch
    # (llm.backbone.regularise): the share of numbers dropped from what each block adds; the share of a
    # target's probability that is given to the other codes of its node
    dropout: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    warmup: int = Field(50, ge=0)  # steps
    clip_norm: float = 1.0
    validate_every: int = Field(250, ge=1)  # steps
    patience: int = Field(4, ge=0)  # validations without a new best; 0: never stop early
    # queries of each kind by which its understanding is measured in the end
    asked_queries: int = Field(100, ge=0)
    validation_instances: int = 500  # a seeded sample of validation instances

    @model_validator(mode="after")
    def _forms_go_together(self) -> AdaptConfig:
        if self.items == "vector" and self.head == "tokens":
            raise ValueError(
                "items: vector and head: tokens do not go together: an item that is one position has no place "
                "for the codes that the backbone would write; set head: depth, or items: codes"
            )
        if self.taught_batch and self.head != "depth":
            raise ValueError(
                "taught_batch is of the head over the levels; set head: depth, or taught_batch: 0"
            )
        if self.head_asks and self.head != "depth":
            raise ValueError("head_asks is of the head over the levels; set head: depth, or leave it out")
        if self.item_projection and self.items != "vector":
            raise ValueError(
                "item_projection adds to an item's one vector; set items: vector, or leave it out"
            )
        return self
