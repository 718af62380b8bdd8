"""Stage `embed`: item vectors, user vectors as of a moment, and the check that nothing of a target is in them.

Cross-fitting is by time block. The vectors that condition the generator are learned from FIT edges alone, and the
generator's second stage trains on PERSONALIZE targets, which come later: for the graph, a training target is as unseen
as a validation or a test target. The retrieval baseline may use everything before validation, so it gets a second
LightGCN over FIT and PERSONALIZE edges. So does SASRec, where `sasrec` asks for it: one of FIT events for the generator (`users_from`), one
of all of them for its own row (`recsys.embeddings.sequence_parts`). Semantic IDs are of LightGCN's item vectors in any case.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from recsys.artifacts.user_rows import save_user_rows
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, ROLE_NAMES, VALIDATION
from recsys.data.text_vectors import encode_texts
from recsys.embeddings import sequence_parts
from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.leaks import check_retrieval_leak
from recsys.embeddings.lightgcn import LightGCN, train_lightgcn
from recsys.embeddings.retrieval import EmbeddingRetrieval, IndexKind, retrieval_hits
from recsys.embeddings.sequence_vectors import SequenceVectors
from recsys.embeddings.user_vectors import BroughtVectors, HistoryVectors, UserVectors, read_brought
from recsys.recommender import Request
from recsys.run import Run, sha256_of
from recsys.seeds import rng

K = 30  # the cut of every retrieval hit-rate here


def embed(config: EmbedConfig, run: Run) -> None:
    """Run the stage; see the module. Raises `LeakError` when the vectors know the training targets."""
    outside = {
        name: sha256_of(path)
        for name, path in (
            ("user_embeddings", config.user_embeddings),
            ("item_embeddings", config.item_embeddings),
        )
        if path is not None and path.is_file()
    }
    stage = run.stage("embed", config, needs=["prepare"], outside=outside)
    if stage.is_done():
        return
    dataset = Dataset.load(run)
    with stage.writing() as folder:
        report: dict = {"hit_rate_k": K}
        curves: dict = {}
        items = _item_part(config, dataset, stage.checkpoint, folder, report, curves)
        users = _user_part(config, dataset, folder, items, report)
        if config.sasrec is not None:
            users, items = _sequence_parts(
                config, dataset, stage.checkpoint, folder, users, items, report, curves
            )
        _leak_check(config, dataset, users, items, report)
        requests, targets = check_instances(dataset, VALIDATION, config)
        report["item_knn"] = sequence_parts.item_knn_part(config.item_knn, dataset, requests, targets, K)
        (folder / "embed.json").write_text(json.dumps(report, indent=1))
        (folder / "curves.json").write_text(json.dumps(curves))
    _print_summary(report)


def _print_summary(report: dict) -> None:
    if "lightgcn" in report and "half_life_items" in report:
        inductive = report["lightgcn"]["validation_hit_rate_by_seed"]
        faded = report["inductive_validation_hit_rate_by_half_life"][str(report["half_life_items"])]
        print(
            f"embed: retrieval hit-rate@{K} on validation: transductive vectors "
            f"{report['lightgcn']['transductive_validation_hit_rate']:.4f}, inductive {max(inductive):.4f}, "
            f"inductive with a half-life of {report['half_life_items']} items {faded:.4f}"
        )
    for name, label in sequence_parts.LABELS.items():
        if name in report:
            found = report[name]
            print(
                f"embed: {label} on {found['validation_instances']} validation instances: NDCG@10 "
                f"{found['validation_ndcg@10']:.4f}, recall@10 {found['validation_recall@10']:.4f}, "
                f"hit-rate@30 {found['validation_hit_rate@30']:.4f} (best at step {found['best_step']})"
            )
    knn = report["item_knn"]
    print(
        f"embed: item-kNN on validation: hit-rate@{K} {max(row['hit_rate'] for row in knn['validation_hit_rates']):.4f} "
        f"with a half-life of {knn['half_life_items']} items and a shrinkage of {knn['shrink_users']:g} users"
    )
    check = report["leak_check"]
    if isinstance(check, dict):
        print(
            f"embed: leak check passed: hit-rate@{K} over users on training targets {check['train_rate']:.4f}, "
            f"on validation targets {check['validation_rate']:.4f}"
        )
    else:
        print(f"embed: leak check {check}")


def load_item_vectors(run: Run) -> dict[str, np.ndarray]:
    """`collaborative` [N, d] (unit rows, zero without an edge), `has_collaborative` [N], and maybe `text` [N, e]."""
    return load_file(run.artifact("embed", "item_vectors.safetensors"))


def load_user_vectors(run: Run) -> UserVectors:
    """The user vectors that condition the generator."""
    report = run.read_json("embed", "embed.json")
    if report["users"] == "sasrec":
        return sequence_parts.load_users(run, report["space"])
    return _aggregated_or_brought(run, report)


def load_conditioning_items(run: Run) -> np.ndarray:
    """Item vectors [N, d] of the space of `load_user_vectors`: LightGCN's or the brought ones, unless users are SASRec's."""
    users = load_user_vectors(run)
    return users.items if isinstance(users, SequenceVectors) else load_item_vectors(run)["collaborative"]


def _aggregated_or_brought(run: Run, report: dict) -> UserVectors:
    if report["users"] == "brought":
        arrays = load_file(run.artifact("embed", "brought_users.safetensors"))
        return BroughtVectors(arrays["users"], arrays["times"], arrays["vectors"], report["space"])
    messages = load_file(run.artifact("embed", "user_messages.safetensors"))["messages"]
    return HistoryVectors(messages, report["half_life_items"], report["space"])


def load_retrieval(run: Run, dataset: Dataset, index: IndexKind = "auto") -> EmbeddingRetrieval:
    """The embedding-retrieval baseline: the refitted vectors if there are any, else those of the generator."""
    report = run.read_json("embed", "embed.json")
    counts = dataset.item_totals.counts
    if "retrieval" in report:
        arrays = load_file(run.artifact("embed", "retrieval.safetensors"))
        users: UserVectors = HistoryVectors(
            arrays["messages"], report["retrieval"]["half_life_items"], "retrieval"
        )
        return EmbeddingRetrieval(users, arrays["items"], counts, index)
    users = _aggregated_or_brought(run, report)
    items = load_item_vectors(run)["collaborative"]
    if users.dim != items.shape[1]:
        raise ValueError(
            f"brought user embeddings have {users.dim} dimensions and the item vectors {items.shape[1]}: there is no "
            "retrieval baseline unless item embeddings of the same space are brought (embed.item_embeddings)"
        )
    return EmbeddingRetrieval(users, items, counts, index)


# -- parts of the stage -----------------------------------------------------------------------------------------


def _item_part(
    config, dataset: Dataset, checkpoint: Path, folder: Path, report: dict, curves: dict
) -> np.ndarray:
    """Item vectors of the generator's space [N, d], written with the text vectors; the GNN's tables where it ran."""
    arrays: dict[str, np.ndarray] = {}
    if config.item_embeddings is not None:
        index = {name: number for number, name in enumerate(dataset.catalogue.item_ids)}
        ids, _, vectors = read_brought(config.item_embeddings, "item_id", index)
        items = np.zeros((dataset.n_items, vectors.shape[1]), np.float32)
        items[ids] = vectors
        report["items"] = "brought"
    else:
        model = _best_lightgcn(config, dataset, (FIT,), checkpoint / "fit", report, curves, "LightGCN")
        items = _unit(model()[dataset.n_users :].detach().numpy())
        save_file({"messages": model.message_table().numpy()}, folder / "user_messages.safetensors")
        report["items"] = "lightgcn"
        items[_degrees(dataset, (FIT,)) == 0] = 0
        if config.refit_for_retrieval and config.user_embeddings is None:
            _refit(config, dataset, checkpoint / "refit", folder, report, curves)
    arrays["collaborative"] = items = _unit(items)
    arrays["has_collaborative"] = np.abs(items).sum(1) > 0
    if config.text_encoder is not None:
        arrays["text"] = encode_texts(dataset.catalogue.texts(), config.text_encoder)
    save_file(arrays, folder / "item_vectors.safetensors")
    report["items_without_vector"] = int((~arrays["has_collaborative"]).sum())
    return items


def _best_lightgcn(
    config, dataset: Dataset, roles, checkpoint: Path, report: dict, curves: dict, label
) -> LightGCN:
    edges = np.isin(dataset.roles, roles)
    requests, targets = check_instances(dataset, VALIDATION, config)
    trained = []
    # the refit has seeds of its own: vectors from the same start would make nearly the same space (affinity wants another)
    first = config.seed if label == "LightGCN" else config.seed + config.seeds
    for number in range(config.seeds):
        seed = first + number

        def validate(model: LightGCN) -> float:
            items = _unit(model()[dataset.n_users :].detach().cpu().numpy())
            vectors, _ = HistoryVectors(model.message_table().cpu().numpy(), None, "").vectors(requests)
            return float(retrieval_hits(vectors, items, requests, targets, K).mean())

        name = label if config.seeds == 1 else f"{label}, seed {seed}"
        model, curve = train_lightgcn(
            dataset.users[edges],
            dataset.items[edges],
            dataset.n_users,
            dataset.n_items,
            config.lightgcn,
            seed,
            checkpoint / str(seed),
            validate,
            name,
        )
        curves[name] = curve.as_dict()
        trained.append((curve.best_value, -number, model))
    key = "lightgcn" if label == "LightGCN" else "lightgcn_retrieval"
    report[key] = {"validation_hit_rate_by_seed": [value for value, _, _ in trained]}
    best = max(trained, key=lambda row: row[:2])[2]
    users = best()[: dataset.n_users].detach().numpy()[[request.user for request in requests]]
    items = _unit(best()[dataset.n_users :].detach().numpy())
    report[key]["transductive_validation_hit_rate"] = float(
        retrieval_hits(users, items, requests, targets, K).mean()
    )
    return best


def _refit(config, dataset: Dataset, checkpoint: Path, folder: Path, report: dict, curves: dict) -> None:
    model = _best_lightgcn(
        config, dataset, (FIT, PERSONALIZE), checkpoint, report, curves, "LightGCN for retrieval"
    )
    items = _unit(model()[dataset.n_users :].detach().numpy())
    messages = model.message_table().numpy()
    half_life, by_half_life = _choose_half_life(config, dataset, messages, items, config.half_lives)
    report["retrieval"] = {"half_life_items": half_life, "validation_hit_rate_by_half_life": by_half_life}
    save_file({"items": items, "messages": messages}, folder / "retrieval.safetensors")


def _user_part(config, dataset: Dataset, folder: Path, items: np.ndarray, report: dict) -> UserVectors:
    if config.user_embeddings is not None:
        ids, times, vectors = read_brought(config.user_embeddings, "user_id", dataset.user_numbers)
        order = np.argsort(ids, kind="stable")
        rows = {"times": torch.from_numpy(times[order]), "vectors": torch.from_numpy(vectors[order])}
        save_user_rows(folder / "brought_users.safetensors", rows, torch.from_numpy(ids[order]))
        (folder / "user_messages.safetensors").unlink(missing_ok=True)
        space = config.embedding_space or f"brought:{sha256_of(config.user_embeddings)[:16]}"
        report |= {"users": "brought", "space": space, "dim": int(vectors.shape[1])}
        return BroughtVectors(ids, times, vectors, space)
    if (
        config.item_embeddings is not None
    ):  # a user is then the faded mean of the brought vectors of their items
        save_file({"messages": items}, folder / "user_messages.safetensors")
    messages = load_file(folder / "user_messages.safetensors")["messages"]
    half_life, by_half_life = _choose_half_life(config, dataset, messages, items, config.user_half_lives)
    space = f"history:{sha256_of(folder / 'user_messages.safetensors')[:16]}:{half_life}"
    report |= {
        "users": "history",
        "space": space,
        "dim": int(messages.shape[1]),
        "half_life_items": half_life,
        "inductive_validation_hit_rate_by_half_life": by_half_life,
    }
    return HistoryVectors(messages, half_life, space)


def _sequence_parts(
    config, dataset: Dataset, checkpoint: Path, folder: Path, users: UserVectors, items, report, curves
) -> tuple[UserVectors, np.ndarray]:
    """Train the SASRecs that are asked for; the generator's user vectors and the item vectors [N, d] of their space."""
    arguments = (config.seed, checkpoint, folder, report, curves)
    sequence_parts.sequence_part(config.sasrec, dataset, sequence_parts.RETRIEVAL, *arguments)
    if config.users_from != "sasrec":
        return users, items
    sequence_parts.sequence_part(config.sasrec, dataset, sequence_parts.USERS, *arguments)
    vectors = sequence_parts.read_users(folder)
    report |= {"users": "sasrec", "space": vectors.space, "dim": vectors.dim}
    return vectors, vectors.items


def _choose_half_life(
    config, dataset: Dataset, messages, items, candidates
) -> tuple[float | None, dict[str, float]]:
    requests, targets = check_instances(dataset, VALIDATION, config)
    rates = {
        half_life: float(
            retrieval_hits(
                HistoryVectors(messages, half_life, "").vectors(requests)[0], items, requests, targets, K
            ).mean()
        )
        for half_life in candidates
    }
    return max(rates, key=lambda half_life: rates[half_life]), {
        str(key): value for key, value in rates.items()
    }


def _leak_check(config, dataset: Dataset, users: UserVectors, items: np.ndarray, report: dict) -> None:
    """Retrieval hit-rate on Stage 2's training targets against validation targets, over users that have both."""
    if users.dim != items.shape[1]:
        report["leak_check"] = "not possible: user and item vectors have different widths"
        return
    rates = []
    for role in (PERSONALIZE, VALIDATION):
        requests, targets = check_instances(dataset, role, config)
        hits = retrieval_hits(users.vectors(requests)[0], items, requests, targets, K)
        names, inverse = np.unique([request.user for request in requests], return_inverse=True)
        means = np.bincount(inverse, weights=hits) / np.bincount(inverse)
        rates.append(dict(zip(names.tolist(), means.tolist(), strict=True)))
    shared = sorted(rates[0].keys() & rates[1].keys())
    if not shared:
        report["leak_check"] = "not possible: no user has both training and validation targets"
        return
    train, validation = (np.array([side[user] for user in shared]) for side in rates)
    report["leak_check"] = asdict(check_retrieval_leak(train, validation, config.leak_margin))


def check_instances(dataset: Dataset, role: int, config: EmbedConfig) -> tuple[list[Request], np.ndarray]:
    """A seeded sample of at most `check_instances` instances of a role: requests and their targets."""
    events = dataset.events(role)
    if len(events) == 0:
        raise ValueError(
            f"the split left no {ROLE_NAMES[role]} event; raise prepare.split's fractions, choose leave_last_out, or "
            "bring users with longer histories"
        )
    if len(events) > config.check_instances:
        chosen = rng(config.seed, "check", role).choice(len(events), config.check_instances, replace=False)
        events = events[np.sort(chosen)]
    return dataset.requests(events, dataset.exclude_seen), dataset.items[events]


def _degrees(dataset: Dataset, roles) -> np.ndarray:
    return np.bincount(dataset.items[np.isin(dataset.roles, roles)], minlength=dataset.n_items)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows, dtype=np.float32), where=norms > 1e-12)
