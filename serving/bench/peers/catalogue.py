"""The peers, their environments and their settings: published ones where there are any, and where they are from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ML, BEAUTY = "ml-latest-small", "beauty"
# CPU seconds of training of every peer on a data set, where the command says nothing; "": of any other
SECONDS = {BEAUTY: 300.0, "": 120.0}


@dataclass(frozen=True)
class Peer:
    """One row of the table. `settings` are of each data set, "" of any other; a data set that is not there is refused."""

    key: str
    name: str
    script: str  # the module that is run: one of this folder by its name, another by its whole name
    settings: Mapping[str, Mapping[str, Any]]
    source: str  # where the settings are from
    requirements: str | None = None  # its environment's file beside this one; None: Prelude's own environment
    vectors: bool = False  # does it read the items' text vectors?
    common: Mapping[str, Any] = field(default_factory=dict)

    def of(self, data: str) -> dict[str, Any]:
        """Its settings on a data set. Raises `ValueError` where it has none."""
        own = self.settings.get(data, self.settings.get(""))
        if own is None:
            raise ValueError(f"not run on {data}: {self.source}")
        return {**self.common, **own}

    @property
    def module(self) -> str:
        return self.script if "." in self.script else f"serving.bench.peers.{self.script}"

    @property
    def pins(self) -> Path | None:
        return None if self.requirements is None else HERE / self.requirements


# blondered/transformer_benchmark (the eSASRec paper, arXiv 2508.06450), README, "Hyperparameters for all datasets":
# Beauty's column; ml-latest-small takes ML-1M's, its batch cut for memory (a step holds batch × 200 × 257 vectors)
_SASREC = {
    BEAUTY: {"n_factors": 64, "n_blocks": 1, "n_heads": 1, "dropout_rate": 0.2, "ff_factors_multiplier": 4,
             "session_max_len": 50, "batch_size": 128, "validate_every_epochs": 1},
    "": {"n_factors": 64, "n_blocks": 2, "n_heads": 1, "dropout_rate": 0.1, "ff_factors_multiplier": 4,
         "session_max_len": 200, "batch_size": 32, "validate_every_epochs": 1},
}  # fmt: skip
# configs/beauty.yaml and configs/ml_quality.yaml, validated more often
_OURS: dict[str, dict[str, Any]] = {
    BEAUTY: {"dim": 64, "temperature": 0.07, "batch": 512, "learning_rate": 0.002, "steps": 1100, "warmup": 100,
             "loss": "sampled_softmax", "validate_every": 22, "patience": 18},
    "": {"dim": 64, "dropout": 0.4, "temperature": 0.07, "batch": 64, "learning_rate": 0.002, "steps": 900,
         "warmup": 60, "loss": "chunked_softmax", "validate_every": 50, "patience": 10},
}  # fmt: skip
_RECTOOLS: dict[str, Any] = {
    "script": "rectools_sasrec", "settings": _SASREC, "requirements": "rectools.txt",
    "source": "the eSASRec authors' benchmark (Beauty's; elsewhere ML-1M's with a batch of 32)",
}  # fmt: skip
_TRAINING = {"n_negatives": 256, "lr": 0.001, "epochs": 200}
_RECBOLE: dict[str, Any] = {"requirements": "recbole.txt", "script": "recbole_models"}

PEERS = {
    one.key: one
    for one in (
        Peer("popularity", "Prelude: popularity", "ours", {"": {"row": "popularity"}}, "counts"),
        Peer("item_knn", "Prelude: item-kNN", "ours", {"": {"row": "item_knn"}}, "two numbers chosen on validation"),
        Peer(
            "lightgcn", "Prelude: LightGCN (embedding retrieval)", "ours",
            {BEAUTY: {"lightgcn": {"epochs": 100, "patience": 4}}, "": {"lightgcn": {}}},
            "configs/beauty.yaml; elsewhere the defaults", common={"row": "lightgcn"},
        ),
        Peer(
            "sasrec", "Prelude: SASRec, ids alone", "ours",
            {data: {"sasrec": own} for data, own in _OURS.items()},
            "configs/beauty.yaml and configs/ml_quality.yaml without the texts, validated more often",
            common={"row": "sasrec"},
        ),
        Peer(
            "sasrec_text", "Prelude: SASRec with texts", "ours",
            {data: {"sasrec": {**own, "text": True}} for data, own in _OURS.items()},
            "configs/beauty.yaml and configs/ml_quality.yaml, validated more often; encoding the texts is not in its seconds",
            vectors=True, common={"row": "sasrec"},
        ),
        Peer("rectools_sasrec", "RecTools: SASRec", common={**_TRAINING, "ligr": False}, **_RECTOOLS),
        Peer("rectools_esasrec", "RecTools: eSASRec", common={**_TRAINING, "ligr": True}, **_RECTOOLS),
        Peer(
            "recbole_sasrec", "RecBole: SASRec", settings={
                BEAUTY: {"max_items": 50, "validate_every_epochs": 1}, "": {"max_items": 50, "validate_every_epochs": 1}
            },
            source="RecBole's defaults (cross-entropy, 2 layers, dim 64, dropout .5)",
            common={"model": "SASRec", "epochs": 300, "recbole": {}}, **_RECBOLE,
        ),
        Peer(
            "recbole_lightgcn", "RecBole: LightGCN", settings={"": {"validate_every_epochs": 5}},
            source="RecBole's defaults (2 layers, dim 64, BPR)",
            common={"model": "LightGCN", "epochs": 300, "recbole": {}}, **_RECBOLE,
        ),
        Peer(
            "cornac_tiger", "cornac: TIGER", "cornac_tiger", {ML: {"n_beams": 50, "epochs": 50}},
            "cornac's GRID_CONFIG, 50 beams; a day on Beauty here, so ml-latest-small alone", "cornac.txt", vectors=True,
        ),
        Peer(
            "implicit_als", "implicit: ALS", "implicit_als",
            {"": {"factors": 128, "regularization": 0.01, "alpha": 1.0, "iterations": 30}},
            "the library's defaults with 128 factors", "implicit.txt",
        ),
    )
}  # fmt: skip


def of_run(run: Path, rows: Mapping[str, str]) -> list[Peer]:
    """Rows of a finished run (key -> name) as peers."""
    return [
        Peer(
            f"run_{key}", f"Prelude's run: {name}", "from_run",
            {"": {"run": str(run), "method": key}}, "the run's configuration; its training is not in this table",
        )
        for key, name in rows.items()
    ]  # fmt: skip
