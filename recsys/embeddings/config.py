"""Settings of stage `embed`; see `recsys.embeddings.embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from recsys.config import StageConfig

Accepted = Literal["before_first_event", "constant", "far_above_history"]
EdgesKind = Literal["user_user", "user_attribute", "item_attribute"]
IndexKind = Literal["auto", "flat", "hnsw", "ivf"]


class LightGCNConfig(StageConfig):
    dim: int = 120  # embedding width; 120 as E2P's behavioural embeddings
    layers: int = Field(default=2, ge=1)  # K propagation steps
    loss: Literal["sampled_softmax", "bpr"] = "sampled_softmax"  # the softmax trains in fewer epochs
    temperature: float = 0.15  # of the cosine logits of the sampled softmax
    negatives: int = 512  # negative items a batch, shared by its rows (sampled softmax) or one a row (BPR)
    epochs: int = 60  # passes over the edges at most; validation usually stops earlier
    batch: int = 8192  # edges a step, or more (`steps_per_epoch`); a step propagates over the whole graph
    # steps of an epoch at most: where the edges are more than this many batches, batches grow with them, so that an epoch costs
    # propagations × edges, and not edges² / batch. 64: from half a million edges on
    steps_per_epoch: int = Field(default=64, ge=1)
    learning_rate: float = 0.01  # Adam
    l2: float = 1e-4  # on the layer-0 rows of the batch, as in the paper
    validate_every_epochs: int = 4
    patience: int = 3  # validations without a new best before stopping
    device: str = "auto"  # cpu | cuda | auto


class ItemKnnConfig(StageConfig):
    # most alike items that each item keeps; more changes little and costs memory
    neighbours: int = Field(200, ge=1)
    last_items: int = Field(50, ge=1)  # items of a history that vote, the latest
    # items; None: no fading
    half_lives: tuple[float | None, ...] = Field((None, 20, 10, 5, 2, 1, 0.5), min_length=1)
    shrinks: tuple[float, ...] = Field((0.0, 5.0, 20.0, 100.0), min_length=1)  # users; a pair's doubt


class SasRecConfig(StageConfig):
    dim: int = Field(128, ge=1)  # width of items and states; a multiple of `heads`
    layers: int = Field(2, ge=1)  # attention blocks; the paper's two
    heads: int = Field(2, ge=1)  # attention heads a block
    # of embeddings, attention and both sub-layers; sparse data want much
    dropout: float = Field(0.5, ge=0, lt=1)
    # items of a history that are read, the latest; the paper's 50 for Amazon
    max_items: int = Field(50, ge=1)
    # item vectors are free rows + a projection of their text vectors (needs embed.text_encoder)
    text: bool = False
    # None: logits are inner products, as published. A number: they are cosines divided by it (0.05 to 0.1 are
    # usual), which keeps popular items from winning by length
    temperature: float | None = Field(None, gt=0)
    # share of a target's mass that is spread over the catalogue
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    # the cross-entropy. softmax: over all items, its logits [positions, N] in memory. chunked_softmax: the same loss without ever
    # holding them, and without most of the padding: the same numbers but for rounding and dropout's draws, twice as fast on a CPU.
    # sampled_softmax: against `negatives` a step, with the logQ correction; a step then costs what it reads, not the catalogue
    loss: Literal["softmax", "chunked_softmax", "sampled_softmax"] = "softmax"
    # items a step that all its positions share (sampled softmax); more: nearer to the whole softmax and dearer. N or more: it is that
    negatives: int = Field(2048, ge=1)
    # negatives are drawn by (events + 1) to this power: 0 all alike, 1 by popularity; the correction holds for any, the noise differs
    negatives_power: float = Field(0.5, ge=0)
    batch: int = Field(256, ge=1)  # sequences a step; a step's logits are its positions × items
    steps: int = Field(6000, ge=1)  # at most, and the length of the cosine; Amazon Beauty has 88 to an epoch
    learning_rate: float = Field(1e-3, gt=0)  # AdamW's at its highest
    # AdamW's, on matrices alone; dropout is the regulariser that counts
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(200, ge=1)  # steps until the learning rate is at its highest
    clip_norm: float = Field(5.0, ge=0)  # of the whole gradient; 0: none. It only catches outliers
    # steps; by NDCG@10 of the full ranking, and the best state is kept
    validate_every: int = Field(200, ge=1)
    patience: int = Field(10, ge=0)  # validations without a new best before stopping; 0: never
    validation_instances: int = Field(5000, ge=0)  # a seeded sample; 0: all
    device: str = "auto"  # cpu | cuda | auto; on CUDA the passes of a training step are bfloat16 (autocast)

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> SasRecConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.loss == "sampled_softmax" and self.label_smoothing:
            raise ValueError(
                "label_smoothing spreads mass over the catalogue; sampled_softmax does not read it"
            )
        return self


Learner = TypeVar("Learner", LightGCNConfig, SasRecConfig)


class EdgesConfig(StageConfig):
    """A file of edges of one type, in any format of the door."""

    file: Path
    kind: EdgesKind  # what its two columns are, in this order
    from_column: str  # users, of item_attribute items; ids as the interactions have them
    to_column: str  # users, of the other kinds any values: each is a node
    delimiter: str | None = None  # of a text whose suffix does not tell, such as .dat; null: by the suffix
    # The column that says since when an edge was known; null: the file does not say, and `undated: always` must
    moment: str | None = None
    # always: edges without a moment count at every moment. A file of today then says of last year what nobody knew. Attributes of
    # items are the catalogue's, and need no word
    undated: Literal["refuse", "always"] = "refuse"
    weight: float = Field(default=1.0, gt=0)  # of a message of this type beside a user–item one
    vocabulary: str = (
        "attributes"  # files of one vocabulary share its nodes: tags of people and tags of items
    )

    @model_validator(mode="after")
    def _moments_are_said(self) -> EdgesConfig:
        if self.kind == "item_attribute":
            if self.moment is not None:
                raise ValueError("item_attribute edges are facts of the catalogue; leave out moment")
        elif self.moment is None and self.undated != "always":
            raise ValueError(
                f"{self.kind} edges need moment, the column that says since when each was known; undated: always takes them to have "
                "been known at all times"
            )
        return self


class EmbedConfig(StageConfig):
    seed: int = 0
    seeds: int = 1  # LightGCN is trained with seed, seed+1, …; validation keeps the best, all are reported
    lightgcn: LightGCNConfig = LightGCNConfig()
    # Edges beside those of users and items, over which the generator's LightGCN spreads vectors too: friends, tags, attributes. The
    # retrieval baseline's own (refit_for_retrieval) has user-item edges alone
    edges: tuple[EdgesConfig, ...] = ()
    # What a user's vector is the sum of. all: history, and neighbours by `edges`; neighbours: those alone, as for people without one
    user_reads: Literal["all", "neighbours"] = "all"
    # how fast a history fades in the retrieval baseline's vectors, in items; validation picks by hit-rate
    half_lives: tuple[float | None, ...] = (None, 50, 20, 10, 5, 2, 1)
    # the same for the vectors that condition the generator. Its prompt shows the latest items already, so
    # what a prefix can add is the longer past: retrieval's favourite (2 to 5 items) would only repeat the
    # prompt
    user_half_lives: tuple[float | None, ...] = (50,)
    refit_for_retrieval: bool = True  # a second LightGCN on all training edges for the retrieval baseline
    # how the models of the rows are had that learn from all events before validation (refit_for_retrieval; sasrec_row: own beside
    # users_from: sasrec), where those whose vectors condition the generator learn from FIT alone. anew: from a start of their own, in
    # a space of its own. continued: the generator's models are trained on over all those events, for `refit_share` of the steps
    refit: Literal["anew", "continued"] = "anew"
    refit_share: float = Field(
        default=0.25, gt=0, le=1
    )  # of the steps and the warm-up, or the epochs (refit: continued)
    sasrec: SasRecConfig | None = None  # a SASRec beside LightGCN: a row of its own; null: none
    # the SASRec of its own row. own: learned from all events before validation. users: the one whose vectors condition the generator
    # (users_from: sasrec), and so of FIT alone, at half the time: the row then knows PERSONALIZE's events as history only. The other
    # way round would leak: a model that has fitted Stage 2's targets ranks them far better than any user's next item
    sasrec_row: Literal["own", "users"] = "own"
    # whose user vectors condition the generator; sasrec: of a second one that is trained on FIT alone
    users_from: Literal["lightgcn", "sasrec"] = "lightgcn"
    item_knn: ItemKnnConfig | None = ItemKnnConfig()  # the item-kNN row; null: none
    text_encoder: str | None = "minilm"  # minilm, a folder, or null: item text vectors for tokenize
    # listed: padded batches, the bytes that runs have always had; alike: each distinct text once, among others of as many tokens,
    # which takes a third less, is the same whatever else is in the catalogue (and so is kept text by text), and differs by 2e-7
    text_batches: Literal["listed", "alike"] = "listed"
    user_embeddings: Path | None = (
        None  # user_id, timestamp, vector, in any format of the door: used instead of the GNN's
    )
    item_embeddings: Path | None = None  # item_id, vector: with both given the GNN is skipped
    embedding_space: str | None = (
        None  # name of the brought space's version; default: the hash of the user file
    )
    # Share of the run's items that brought item embeddings must cover, and of each role's instances that brought user embeddings must
    # cover from before their moment
    min_item_coverage: float = Field(default=0.5, ge=0, le=1)
    min_user_coverage: float = Field(default=0.5, ge=0, le=1)
    # What brought user embeddings do that vectors of their own moment hardly would, and that is meant so (recsys.embeddings.brought)
    accept: tuple[Accepted, ...] = ()
    index: IndexKind = "auto"  # FAISS: flat (exact), hnsw, ivf; auto is exact up to a million items
    leak_margin: float = 0.25  # how far above validation (relative) the hit-rate on training targets may be
    check_instances: int = 3000  # instances a side that the checks use

    def shortened(self, config: Learner) -> Learner:
        """The same for `refit_share` of its steps or epochs."""
        steps = {
            name: getattr(config, name) for name in ("epochs", "steps", "warmup") if hasattr(config, name)
        }
        update = {name: max(1, round(self.refit_share * count)) for name, count in steps.items()}
        return config.model_copy(update=update)

    @model_validator(mode="after")
    def _sasrec_can_be_trained(self) -> EmbedConfig:
        if self.users_from == "sasrec" and self.sasrec is None:
            raise ValueError("users_from: sasrec needs a sasrec section; an empty one, {}, has the defaults")
        if self.sasrec_row == "users" and self.users_from != "sasrec":
            raise ValueError("sasrec_row: users needs users_from: sasrec, whose model it shares")
        if self.users_from == "sasrec" and self.user_embeddings is not None:
            raise ValueError(
                "user_embeddings and users_from: sasrec both say what conditions the generator; keep one"
            )
        if self.edges and (self.user_embeddings or self.item_embeddings):
            raise ValueError("edges are LightGCN's; with user_embeddings or item_embeddings leave them out")
        if self.user_reads == "neighbours" and not any(one.kind != "item_attribute" for one in self.edges):
            raise ValueError("user_reads: neighbours needs edges of users (user_user or user_attribute)")
        if self.sasrec is not None and self.sasrec.text and self.text_encoder is None:
            raise ValueError("sasrec.text needs text_encoder")
        return self
