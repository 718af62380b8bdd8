"""Settings of stage `embed`; see `recsys.embeddings.embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from recsys.config import StageConfig
from recsys.embeddings.brought import Accepted
from recsys.embeddings.heterogeneous import EdgesConfig
from recsys.embeddings.item_knn import ItemKnnConfig
from recsys.embeddings.lightgcn import LightGCNConfig
from recsys.embeddings.retrieval import IndexKind
from recsys.embeddings.sasrec import SasRecConfig


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
