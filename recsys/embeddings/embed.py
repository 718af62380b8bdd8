"""Stage `embed`: item vectors, user vectors as of a moment, and the check that no target is in them.

Cross-fitting is by time block. The vectors that condition the generator are learned from FIT edges alone, and
the generator's second stage trains on PERSONALIZE targets, which come later: for the graph, a training target
is as unseen as a validation or a test target. The retrieval baseline may use everything before validation, so
it gets a second LightGCN over FIT and PERSONALIZE edges. So does SASRec, where `sasrec` asks for it: one of
FIT events for the generator (`users_from`), one of all of them for its own row
(`recsys.embeddings.sequence_parts`). Semantic IDs are of LightGCN's item vectors in any case.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from recsys.artifacts.arrays import map_arrays
from recsys.artifacts.manifest import sha256_of
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, ROLE_NAMES, VALIDATION
from recsys.data.text_vectors import encode_texts
from recsys.door.sources import source_hash
from recsys.door.times import OF_RUN, Reading
from recsys.door.vectors import read_vectors
from recsys.elsewhere import Workers, elsewhere
from recsys.embeddings import brought, heterogeneous, sequence_parts
from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.leaks import check_retrieval_leak
from recsys.embeddings.lightgcn import LightGCN, train_lightgcn
from recsys.embeddings.retrieval import EmbeddingRetrieval, IndexKind, retrieval_hits, unit_rows
from recsys.embeddings.sequence_vectors import SequenceVectors
from recsys.embeddings.summary import print_summary
from recsys.embeddings.user_vectors import BroughtVectors, FadingVectors, HistoryVectors, UserVectors
from recsys.recommender import Request
from recsys.run import Run
from recsys.seeds import rng

K = 30  # the cut of every retrieval hit-rate here
GENERATOR, REFIT = "lightgcn", "lightgcn_retrieval"  # the LightGCNs, as the report names them
ROLES = {GENERATOR: (FIT,), REFIT: (FIT, PERSONALIZE)}  # of the edges that each learns from
LABELS = {GENERATOR: "LightGCN", REFIT: "LightGCN for retrieval"}
CHECKPOINTS = {GENERATOR: "fit", REFIT: "refit"}


def embed(config: EmbedConfig, run: Run, workers: Workers | None = None) -> None:
    """Run the stage; see the module. `workers`, where there are any, read the items' texts. Raises `LeakError` when the vectors know the training targets."""
    given = {"user_embeddings": config.user_embeddings, "item_embeddings": config.item_embeddings}
    given |= {f"edges.{number}": edges.file for number, edges in enumerate(config.edges)}
    outside = {name: source_hash(path) for name, path in given.items() if path is not None and path.exists()}
    stage = run.stage("embed", config, needs=["prepare"], outside=outside)
    if stage.is_done():
        return
    dataset = Dataset.load(run)
    with stage.writing() as folder:
        time = OF_RUN[run.read_json("prepare", "prepare.json")["time"]]
        work = _Work(config, dataset, stage.checkpoint, folder, time, workers)
        work.run()
        (folder / "embed.json").write_text(json.dumps(work.report, indent=1))
        (folder / "curves.json").write_text(json.dumps(work.curves))
    print_summary(work.report)


def load_item_vectors(run: Run) -> dict[str, np.ndarray]:
    """`collaborative` [N, d] (unit rows, zero without an edge), `has_collaborative` [N], maybe `text` [N, e]."""
    return map_arrays(run.artifact("embed", "item_vectors.safetensors"))


def load_user_vectors(run: Run) -> UserVectors:
    """The user vectors that condition the generator."""
    report = run.read_json("embed", "embed.json")
    if report["users"] == "sasrec":
        return sequence_parts.load_users(run, report["space"])
    return _aggregated_or_brought(run, report)


def load_conditioning_items(run: Run) -> np.ndarray:
    """Item vectors [N, d] of the space of `load_user_vectors`: LightGCN's, brought ones, or SASRec's."""
    users = load_user_vectors(run)
    return users.items if isinstance(users, SequenceVectors) else load_item_vectors(run)["collaborative"]


def _aggregated_or_brought(run: Run, report: dict[str, Any]) -> UserVectors:
    if report["users"] == "brought":
        arrays = map_arrays(run.artifact("embed", "brought_users.safetensors"))
        return BroughtVectors(arrays["users"], arrays["times"], arrays["vectors"], report["space"])
    messages = map_arrays(run.artifact("embed", "user_messages.safetensors"))["messages"]
    history = HistoryVectors(messages, report["half_life_items"], report["space"])
    if "user_reads" not in report:
        return history
    return heterogeneous.read_users(run.artifact("embed", heterogeneous.FILE), history, report["user_reads"])


def load_retrieval(run: Run, dataset: Dataset, index: IndexKind = "auto") -> EmbeddingRetrieval:
    """The embedding-retrieval baseline: the refitted vectors if there are any, else the generator's."""
    report = run.read_json("embed", "embed.json")
    counts = dataset.item_totals.counts
    if "retrieval" in report:
        arrays = map_arrays(run.artifact("embed", "retrieval.safetensors"))
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


# -- the stage at work ---------------------------------------------------------------------------------------


@dataclass
class _Work:
    """One run of the stage: what it reads, where it writes, and what it has to say, `report` and `curves`."""

    config: EmbedConfig
    dataset: Dataset
    checkpoint: Path
    folder: Path  # of the artifacts
    time: Reading  # of brought vectors: the run's clock or its order
    workers: Workers | None = None
    report: dict[str, Any] = field(default_factory=lambda: {"hit_rate_k": K})
    curves: dict[str, Any] = field(default_factory=dict)
    goes_on: dict[str, LightGCN] = field(default_factory=dict)  # a model's name -> what it goes on from

    typed: heterogeneous.TypedGraph | None = None  # edges beside user–item ones

    def run(self) -> None:
        self.typed = heterogeneous.read_graph(self.config.edges, self.dataset, self.time)
        items = self._item_vectors()
        users = self._user_vectors(items)
        if self.config.sasrec is not None:
            users, items = self._sequence_vectors(users, items)
        self._check_leak(users, items)
        requests, targets = self._instances(VALIDATION)
        self.report["item_knn"] = sequence_parts.item_knn_part(
            self.config.item_knn, self.dataset, requests, targets, K
        )

    def _item_vectors(self) -> np.ndarray:
        """Item vectors of the generator's space [N, d], written with the text vectors (and the GNN's tables)."""
        arrays: dict[str, np.ndarray] = {}
        if self.config.item_embeddings is not None:
            index = {name: number for number, name in enumerate(self.dataset.catalogue.item_ids)}
            path, least = self.config.item_embeddings, self.config.min_item_coverage
            found = read_vectors(path, "item_id", index, self.time)
            self.report["item_coverage"] = brought.item_coverage(found, self.dataset, path, least)
            items = np.zeros((self.dataset.n_items, found.vectors.shape[1]), np.float32)
            order = np.argsort(found.times, kind="stable")  # of several moments the newest
            items[found.ids[order]] = found.vectors[order]
            self.report["items"] = "brought"
        else:
            items, messages = self._best_lightgcn(GENERATOR)
            save_file({"messages": messages}, self.folder / "user_messages.safetensors")
            self.report["items"] = "lightgcn"
            edges = self.dataset.items[self._edges(GENERATOR)]
            items[np.bincount(edges, minlength=self.dataset.n_items) == 0] = 0
            if self.config.refit_for_retrieval and self.config.user_embeddings is None:
                self._refit()
        arrays["collaborative"] = items = unit_rows(items)
        arrays["has_collaborative"] = np.abs(items).sum(1) > 0
        encoder, how = self.config.text_encoder, self.config.text_batches
        if encoder is not None:
            texts = self.dataset.catalogue.texts()
            with elsewhere(self.workers, self.checkpoint / "texts") as others:
                arrays["text"] = encode_texts(texts, encoder, batches=how, keep=True, others=others)
        save_file(arrays, self.folder / "item_vectors.safetensors")
        self.report["items_without_vector"] = int((~arrays["has_collaborative"]).sum())
        return items

    def _best_lightgcn(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Item vectors (unit rows) and message table, both [N, d], of the seed that validation finds best."""
        edges = self._edges(name)
        requests, targets = self._instances(VALIDATION)
        trained: list[tuple[float, int, LightGCN]] = []
        start, config = self.goes_on.get(name), self.config.lightgcn
        config = config if start is None else self.config.shortened(config)
        # the refit has seeds of its own: from one start nearly the same space would come; affinity wants another
        first = self.config.seed if name == GENERATOR else self.config.seed + self.config.seeds
        typed = self.typed if name == GENERATOR else None
        for number in range(self.config.seeds):
            seed = first + number

            def validate(model: LightGCN) -> float:
                items = self._items_of(model)
                history = HistoryVectors(model.message_table().cpu().numpy(), None, "")
                of_users = heterogeneous.users_of(model, typed, history, self.config.user_reads)
                vectors, _ = of_users.vectors(requests)
                return float(retrieval_hits(vectors, items, requests, targets, K).mean())

            label = LABELS[name] if self.config.seeds == 1 else f"{LABELS[name]}, seed {seed}"
            model, curve = train_lightgcn(
                self.dataset.users[edges],
                self.dataset.items[edges],
                self.dataset.n_users,
                self.dataset.n_items,
                config,
                seed,
                self.checkpoint / CHECKPOINTS[name] / str(seed),
                validate,
                label,
                self.dataset.weighed(edges),
                start,
                *((typed.learned(), typed.n_others) if typed else ()),
            )
            self.curves[label] = curve.as_dict()
            trained.append((curve.best_value, -number, model))
        best = max(trained, key=lambda row: row[:2])[2]
        if self.config.refit == "continued":
            self.goes_on[REFIT] = best
        users = best()[: self.dataset.n_users].detach().numpy()[[request.user for request in requests]]
        items = self._items_of(best)
        found = float(retrieval_hits(users, items, requests, targets, K).mean())
        self.report[name] = {
            "validation_hit_rate_by_seed": [value for value, _, _ in trained],
            "transductive_validation_hit_rate": found,
        }
        if typed is not None:
            heterogeneous.save_neighbours(best, typed, self.folder)
            self.report |= {"edges": list(typed.facts), "user_reads": self.config.user_reads}
        return items, best.message_table().numpy()

    def _items_of(self, model: LightGCN) -> np.ndarray:
        items = model()[self.dataset.n_users :][: self.dataset.n_items]
        return unit_rows(items.detach().cpu().numpy())

    def _edges(self, name: str) -> np.ndarray:
        """Which events the LightGCN learns from."""
        return np.isin(self.dataset.roles, ROLES[name])

    def _refit(self) -> None:
        """The second LightGCN, of the retrieval baseline, and the half-life that validation finds best."""
        items, messages = self._best_lightgcn(REFIT)
        users = HistoryVectors(messages, None, "")
        half_life, by_half_life = self._choose_half_life(users, items, self.config.half_lives)
        self.report["retrieval"] = {
            "half_life_items": half_life,
            "validation_hit_rate_by_half_life": by_half_life,
        }
        save_file({"items": items, "messages": messages}, self.folder / "retrieval.safetensors")

    def _user_vectors(self, items: np.ndarray) -> UserVectors:
        """The user vectors of the space of `items` [N, d]: brought ones, or faded means over histories."""
        config, messages_path = self.config, self.folder / "user_messages.safetensors"
        if config.user_embeddings is not None:
            theirs, found = brought.brought_users(config.user_embeddings, self.time, config.embedding_space,
                config.min_user_coverage, config.accept, self.dataset, self._instances, items, self.folder)  # fmt: skip
            self.report |= found
            return theirs
        if config.item_embeddings is not None:
            # a user is then the faded mean of the brought vectors of their items
            save_file({"messages": items}, messages_path)
        messages = load_file(messages_path)["messages"]
        reads = config.user_reads if self.typed else None
        path, history = self.folder / heterogeneous.FILE, HistoryVectors(messages, None, "")
        unfaded = heterogeneous.read_users(path, history, reads)
        half_life, by_half_life = self._choose_half_life(unfaded, items, config.user_half_lives)
        space = f"history:{sha256_of(messages_path)[:16]}:{half_life}" + (f":{reads}" if reads else "")
        users = unfaded.faded(half_life, space)
        self.report |= {
            "users": "history",
            "space": space,
            "dim": int(messages.shape[1]),
            "half_life_items": half_life,
            "inductive_validation_hit_rate_by_half_life": by_half_life,
        }
        return users

    def _sequence_vectors(self, users: UserVectors, items: np.ndarray) -> tuple[UserVectors, np.ndarray]:
        """Train the SASRecs asked for; the generator's user vectors, item vectors [N, d] of their space."""
        curves, found = sequence_parts.sequence_models(
            self.config, self.dataset, self.checkpoint, self.folder
        )
        self.curves |= curves
        self.report |= found
        if self.config.users_from != "sasrec":
            return users, items
        vectors = sequence_parts.read_users(self.folder)
        self.report |= {"users": "sasrec", "space": vectors.space, "dim": vectors.dim}
        return vectors, vectors.items

    def _choose_half_life(
        self, users: FadingVectors, items: np.ndarray, candidates: Sequence[float | None]
    ) -> tuple[float | None, dict[str, float]]:
        """The half-life of the best hit-rate on validation, and the hit-rate of each."""
        requests, targets = self._instances(VALIDATION)

        def hit_rate(half_life: float | None) -> float:
            vectors, _ = users.faded(half_life, "").vectors(requests)
            return float(retrieval_hits(vectors, items, requests, targets, K).mean())

        rates = {half_life: hit_rate(half_life) for half_life in candidates}
        best = max(rates, key=lambda half_life: rates[half_life])
        return best, {str(half_life): rate for half_life, rate in rates.items()}

    def _check_leak(self, users: UserVectors, items: np.ndarray) -> None:
        """Hit-rate on Stage 2's training targets against validation targets, over users that have both."""
        if users.dim != items.shape[1]:
            self.report["leak_check"] = "not possible: user and item vectors have different widths"
            return
        rates = []
        for role in (PERSONALIZE, VALIDATION):
            requests, targets = self._instances(role)
            hits = retrieval_hits(users.vectors(requests)[0], items, requests, targets, K)
            names, inverse = np.unique([request.user for request in requests], return_inverse=True)
            means = np.bincount(inverse, weights=hits) / np.bincount(inverse)
            rates.append(dict(zip(names.tolist(), means.tolist(), strict=True)))
        shared = sorted(rates[0].keys() & rates[1].keys())
        if not shared:
            self.report["leak_check"] = "not possible: no user has both training and validation targets"
            return
        train, validation = (np.array([side[user] for user in shared]) for side in rates)
        leak = check_retrieval_leak(train, validation, self.config.leak_margin)
        constant = any(one["key"] == "constant" for one in self.report.get("suspicions", ()))
        whose = "user" if constant else "item"
        brought_alone = self.report["items"] == "brought" and self.report["users"] == "history"
        self.report["leak_check"] = (
            f"cannot tell: each {whose} has one vector for all times, so training and validation targets are found alike whatever it knows"
            if constant or brought_alone
            else asdict(leak)
        )

    def _instances(self, role: int) -> tuple[list[Request], np.ndarray]:
        """A seeded sample of at most `check_instances` instances of a role: requests and their targets."""
        events, at_most = self.dataset.instances(role), self.config.check_instances
        if len(events) == 0:
            raise ValueError(
                f"the split left no {ROLE_NAMES[role]} event; raise prepare.split's fractions, choose leave_last_out, or "
                "bring users with longer histories"
            )
        if len(events) > at_most:
            chosen = rng(self.config.seed, "check", role).choice(len(events), at_most, replace=False)
            events = events[np.sort(chosen)]
        return self.dataset.block(events, self.dataset.exclude_seen), self.dataset.items[events]
