"""The parts of stage `embed` that read histories as sequences: SASRec and item-kNN.

SASRec is trained for the generator's vectors and for its own row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, VALIDATION
from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.item_knn import ItemKnn, ItemKnnConfig, choose_item_knn, similarities
from recsys.embeddings.retrieval import IndexKind
from recsys.embeddings.sasrec import Ranking, SasRec, SasRecConfig, ndcg_at, train_sasrec
from recsys.embeddings.sequence_vectors import (
    SasRecRetrieval,
    SequenceVectors,
    load_sequence_vectors,
    save_sasrec,
)
from recsys.recommender import Request
from recsys.run import Run
from recsys.seeds import sample
from recsys.training.loop import Curves

USERS, RETRIEVAL = "sasrec_users", "sasrec_retrieval"  # names of the artifacts
ROLES = {USERS: (FIT,), RETRIEVAL: (FIT, PERSONALIZE)}  # of the events that each learns from
LABELS = {USERS: "SASRec", RETRIEVAL: "SASRec for retrieval"}


def sequence_models(
    config: EmbedConfig, dataset: Dataset, checkpoint: Path, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the SASRecs that are asked for (`sequence_part`): their curves by label and validation figures by name."""
    names = [RETRIEVAL] if config.sasrec_row == "own" else []
    if config.users_from == "sasrec":
        names.append(USERS)
    if config.refit == "continued":
        names.reverse()  # the row's goes on from the generator's
    settings, curves, figures, start = config.sasrec, {}, {}, None
    assert settings is not None
    for name in names:
        model, curve, figures[name] = sequence_part(
            settings if start is None else config.shortened(settings),
            dataset,
            name,
            config.seed,
            checkpoint,
            folder,
            start,
        )
        curves[LABELS[name]] = curve.as_dict()
        start = model if config.refit == "continued" else None
    return curves, figures


def sequence_part(
    config: SasRecConfig,
    dataset: Dataset,
    name: str,
    seed: int,
    checkpoint: Path,
    folder: Path,
    start: SasRec | None = None,
) -> tuple[SasRec, Curves, dict[str, Any]]:
    """Train a SASRec and write it into `folder`, which holds the item vectors already:
    the model, its curves and validation figures.

    USERS learns from FIT alone, so that its vectors know no target of Stage 2; RETRIEVAL from all before
    validation, with a seed of its own; `start`: a model to go on from.
    """
    learned = np.isin(dataset.roles, ROLES[name])
    text = load_file(folder / "item_vectors.safetensors").get("text") if config.text else None
    held_out = _held_out(config, dataset, seed)
    model, curve = train_sasrec(
        dataset.users[learned],
        dataset.items[learned],
        dataset.times[learned],
        dataset.n_items,
        config,
        seed if name == USERS else seed + 1,
        checkpoint / name,
        held_out,
        text,
        LABELS[name],
        dataset.weighed(learned),
        start,
    )
    save_sasrec(model, folder, name)
    ranks = held_out.ranks(model)
    figures = {
        "validation_instances": len(ranks),
        "validation_ndcg@10": ndcg_at(ranks, 10),
        "validation_recall@10": float((ranks <= 10).mean()),
        "validation_hit_rate@30": float((ranks <= 30).mean()),
        "best_step": curve.best_step,
    }
    return model, curve, figures


def _held_out(config: SasRecConfig, dataset: Dataset, seed: int) -> Ranking:
    events = sample(dataset.instances(VALIDATION), config.validation_instances, seed, "sasrec", "validation")
    requests = dataset.block(events, dataset.exclude_seen)
    return Ranking(requests, dataset.items[events], config.max_items)


def space_of(folder: Path) -> str:
    """The name of the space of USERS: the hash of its weights."""
    return f"sasrec:{sha256_of(folder / f'{USERS}.safetensors')[:16]}"


def read_users(folder: Path) -> SequenceVectors:
    """The vectors of a SASRec of USERS as the stage writes it."""
    return load_sequence_vectors(
        folder / f"{USERS}.safetensors", folder / f"{USERS}.json", space_of(folder), unit_length=True
    )


def load_users(run: Run, space: str) -> SequenceVectors:
    """The same from a finished run."""
    weights, settings = (run.artifact("embed", f"{USERS}.{kind}") for kind in ("safetensors", "json"))
    return load_sequence_vectors(weights, settings, space, unit_length=True)


def load_user_logits(run: Run) -> SequenceVectors | None:
    """The SASRec that learned from FIT alone, such that u(t) · items are its logits; None where the run trained none."""
    if USERS not in run.read_json("embed", "embed.json"):
        return None
    weights, settings = (run.artifact("embed", f"{USERS}.{kind}") for kind in ("safetensors", "json"))
    return load_sequence_vectors(weights, settings, USERS, unit_length=False)


def load_sasrec(run: Run, dataset: Dataset, index: IndexKind = "auto") -> SasRecRetrieval:
    """The SASRec row: of RETRIEVAL, or of USERS where `embed.sasrec_row` shares it. Raises `RunError` where the run has none."""
    report = run.read_json("embed", "embed.json")
    name = next((name for name in (RETRIEVAL, USERS) if name in report), None)
    if name is None:
        raise RunError(f"{run.path} has no SASRec; set embed.sasrec={{}} and run: prelude embed {run.path}")
    weights, settings = (run.artifact("embed", f"{name}.{kind}") for kind in ("safetensors", "json"))
    users = load_sequence_vectors(weights, settings, name, unit_length=False)
    return SasRecRetrieval(users, dataset.item_totals.counts, index)


def item_knn_part(
    config: ItemKnnConfig | None, dataset: Dataset, requests: Sequence[Request], targets: np.ndarray, k: int
) -> dict[str, Any] | None:
    """What validation chooses for item-kNN, learned from all events before validation; None without `config`."""
    if config is None:
        return None
    users, items, weights = _training_edges(dataset)
    read = [request.history[-config.last_items :] for request in requests]
    return choose_item_knn(
        config,
        users,
        items,
        dataset.item_totals.counts,
        lambda method: float(method.hits(requests, targets, k).mean()),
        weights,
        np.unique(np.concatenate(read)),
    )


def load_item_knn(run: Run, dataset: Dataset, config: ItemKnnConfig | None) -> ItemKnn:
    """The item-kNN row: similarities are counted from the events, with the numbers that validation chose.

    Raises `RunError` where the stage is older than this row or has left it out, or the run was exported without users, and so
    without events.
    """
    if dataset.totals is not None:
        raise RunError(
            f"{run.path} has no events to count item-kNN's pairs in; export the run with its users"
        )
    chosen = run.read_json("embed", "embed.json").get("item_knn")
    if config is None:
        raise RunError(
            f"{run.path} has no item-kNN; set embed.item_knn={{}} and run: prelude embed {run.path}"
        )
    if chosen is None:
        raise RunError(f"the stage embed of {run.path} is older than item-kNN; run: prelude embed {run.path}")
    users, items, weights = _training_edges(dataset)
    similar = similarities(users, items, dataset.n_items, chosen["shrink_users"], config.neighbours, weights)
    return ItemKnn(similar, chosen["half_life_items"], config.last_items, dataset.item_totals.counts)


def _training_edges(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Users, items and weights of the training events."""
    learned = np.isin(dataset.roles, (FIT, PERSONALIZE))
    return dataset.users[learned], dataset.items[learned], dataset.weighed(learned)
