"""Stage `music`: playlists for the test queries by every row, judged by a listener that has seen none of it (E2P's music task).

Rows: Embedding Reranking (the best n of m candidates of No Context, by user–item cosine), No Context, every row of the stage `align`
(Static Prefix, E2P by LM, by KTO eq. 5 and by KTO, …), and E2P-Random for those that read a user's vector. Every list is n distinct
items drawn without replacement at one temperature. Beside the proxy stand figures that no predictor is needed for: how far a row's own
probabilities put what was engaged with above what was not, hits on both kinds, and how spread out what it draws is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file
from scipy.stats import rankdata
from tqdm import tqdm

from evaluation.engagement_plots import engagement_forest, reliability_plot
from evaluation.playlist_judge import PlaylistRow
from evaluation.playlist_table import music_table
from evaluation.statistics import mean_interval, user_means
from llm.align import load_aligned
from llm.methods.e2p import E2PConfig
from llm.reading import OfAnother, Reading
from llm.recommender import SidRecommender
from recsys.recommender import Request
from recsys.run import Run
from recsys.seeds import rng
from recsys.user_vectors import partners_of_other_users
from serving.config import RunConfig
from serving.listener import Listener, fit_listener
from serving.methods import Methods

NEEDS = ("prepare", "embed", "tokenize", "adapt", "engagement", "align")
NO_CONTEXT, RERANKING = "No Context", "Embedding Reranking"
DRAWS = 30  # i.i.d., from which a row's entropy and share of distinct items are estimated
BLOCK = 250  # requests between two checkpoints


@dataclass(frozen=True)
class Source:
    """Where a row's lists come from: a name, and one recommender a replica."""

    name: str
    replicas: Sequence[Callable[[], Any]]


def music(config: RunConfig, run: Run, quiet: bool = False) -> dict[str, Any]:
    """Run the stage; see the module. Returns `music.json`. A killed stage goes on at the row and block it was at."""
    stage = run.stage("music", config.music, needs=NEEDS)
    if not stage.is_done():
        methods = Methods(run, config)
        with stage.writing() as folder:
            listener = fit_listener(methods, config.music.text_encoder, config.music.seed)
            listener.predictor.save(folder / "predictor.safetensors")
            work = MusicTable(config, methods, listener, stage.checkpoint, quiet)
            table = work.table()
            save_lists(folder / "lists.parquet", work.lists, methods, listener.requests)
            (folder / "music.json").write_text(
                json.dumps({"table": table, "predictor": listener.quality}, indent=1)
            )
            (folder / "reliability.png").write_bytes(reliability_plot(listener.quality))
            if (forest := engagement_forest(table)) is not None:
                (folder / "playlists.png").write_bytes(forest)
    return run.read_json("music", "music.json")


class MusicTable:
    """The stage at work: lists of every row, then their figures."""

    def __init__(
        self, config: RunConfig, methods: Methods, listener: Listener, checkpoint: Path, quiet: bool
    ):
        self.config, self.align, self.methods, self.listener = config.music, config.align, methods, listener
        self.checkpoint, self.quiet = checkpoint, quiet
        self.requests = listener.requests
        self.lists: dict[str, np.ndarray] = {}

    def table(self) -> dict[str, Any]:
        """Every row's lists [K, R, n] and figures, as `evaluation.playlist_table` compares them."""
        rows: dict[str, PlaylistRow] = {}
        more: dict[str, dict[str, Any]] = {}
        for source in self.sources():
            answers = [self._answers(source.name, at, build) for at, build in enumerate(source.replicas)]
            self.lists[source.name] = np.stack([one["lists"] for one in answers])
            rows[source.name] = self.listener.judge.row(
                list(self.lists[source.name]), with_affinity=source.name != RERANKING
            )
            if "entropy" in answers[0]:
                more[source.name] = self._of_probabilities(answers)
        table = music_table(
            rows, self.listener.users, self.methods.dataset.n_items, self._name(self.config.primary),
            self._name(self.config.control), NO_CONTEXT, self.config.seed,
        )  # fmt: skip
        for row in table["rows"]:
            row["own"] = more.get(row["name"])
        return table | {
            "n": self.config.n,
            "temperature": self.config.temperature,
            "rerank_from": self.config.rerank_from,
            "target": self.align.target,
        }

    def sources(self) -> list[Source]:
        """The rows, in the table's order."""
        plain = [lambda: self._recommender(NO_CONTEXT, self.methods.reading("no_context"))]
        rows = [
            Source(RERANKING, [lambda: Reranking(plain[0](), self.methods, self.config.rerank_from)]),
            Source(NO_CONTEXT, plain),
        ]
        for row in self.align.rows:
            if isinstance(row.method, E2PConfig) and row.key in self.config.random_of:
                rows.append(self._random(row.key))
            rows.append(
                Source(row.name, [self._aligned(row.key, row.name, seed) for seed in self.align.seeds])
            )
        return rows

    def _name(self, key: str) -> str:
        return self.align.row(key).name

    def _aligned(self, key: str, name: str, seed: int) -> Callable[[], SidRecommender]:
        return lambda: self._recommender(
            name, load_aligned(self.methods.world, self.align, self.align.row(key), seed)
        )

    def _random(self, key: str) -> Source:
        """The trained row, each request conditioned as one of another user is; several permutations."""
        name = self._name(key).replace("E2P", "E2P-Random", 1)

        def build(number: int) -> Callable[[], SidRecommender]:
            def built() -> SidRecommender:
                seed = self.align.seeds[number % len(self.align.seeds)]
                reading = load_aligned(self.methods.world, self.align, self.align.row(key), seed)
                assert reading.personalizer is not None
                generator = rng(self.config.seed, "music random", number)
                partner = partners_of_other_users(self.listener.users, generator)
                other = OfAnother(reading.personalizer, self.requests, partner)
                return self._recommender(name, replace(reading, personalizer=other))

            return built

        return Source(name, [build(number) for number in range(self.config.random_permutations)])

    def _recommender(self, name: str, reading: Reading) -> SidRecommender:
        return self.methods.recommender(name, reading)

    # -- answers -------------------------------------------------------------------------------------------------

    def _answers(self, name: str, replica: int, build: Callable[[], Any]) -> dict[str, np.ndarray]:
        """`lists` [R, n] and, of rows with probabilities, `entropy` and `distinct` [R] and `shown` [S]: log p of what was shown."""
        parts, recommender = [], None
        label = name if replica == 0 else f"{name}, {replica + 1}"
        bar = tqdm(total=len(self.requests), desc=label, unit="list", disable=self.quiet, mininterval=1.0)
        for start in range(0, len(self.requests), BLOCK):
            path = self.checkpoint / f"{name.replace(' ', '_')}-{replica}-{start}.safetensors"
            if path.exists():
                part = load_file(path)
            else:
                recommender = recommender or build()
                part = self._block(recommender, slice(start, start + BLOCK))
                save_file(part, str(path) + ".new")
                os.replace(f"{path}.new", path)
            parts.append(part)
            bar.update(len(part["lists"]))
        bar.close()
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _block(self, recommender: Any, rows: slice) -> dict[str, np.ndarray]:
        requests, n = self.requests[rows], self.config.n
        ranked = recommender.recommend(requests, n, self.config.temperature, self.config.seed)
        lists = np.full((len(requests), n), -1, np.int64)
        for row, answer in zip(lists, ranked, strict=True):
            row[: len(answer.items)] = answer.items
        if not isinstance(recommender, SidRecommender):
            return {"lists": lists}
        items, log_probs = recommender.draw(requests, DRAWS, 1.0, self.config.seed)
        distinct = np.array([len(np.unique(row)) / DRAWS for row in items])
        return {
            "lists": lists,
            "entropy": -log_probs.mean(1),
            "distinct": distinct,
            "shown": self._log_prob_of_shown(recommender, rows),
        }

    def _log_prob_of_shown(self, recommender: SidRecommender, rows: slice) -> np.ndarray:
        test = self.listener.judge.test
        of = np.arange(len(self.requests))[rows]
        counts = np.diff(test.offsets)[of]
        items = test.items[test.offsets[of[0]] : test.offsets[of[-1] + 1]]
        asked: list[Request] = [self.requests[at] for at in np.repeat(of, counts)]
        return np.asarray(recommender.log_prob(asked, items), dtype=np.float64)

    def _of_probabilities(self, answers: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
        """Means over users of a row's entropy, of the share of its draws that are distinct, and of `above`."""
        test, users = self.listener.judge.test, self.listener.users
        above = np.mean([liked_above(one["shown"], test.labels, test.offsets) for one in answers], axis=0)
        there = np.isfinite(above)
        found: dict[str, Any] = {
            "liked_above_disliked": None,
            "liked_above_disliked_ci95": None,
            "n_lists_with_both": int(there.sum()),
        }
        if there.any():
            means = user_means(above[there], users[there])[1]
            bounds = mean_interval(means)
            found |= {
                "liked_above_disliked": float(means.mean()),
                "liked_above_disliked_ci95": None if bounds is None else list(bounds),
            }
        for key in ("entropy", "distinct"):
            found[key] = float(user_means(np.mean([one[key] for one in answers], axis=0), users)[1].mean())
        return found


class Reranking:
    """The n of m candidates that No Context draws without replacement which are nearest to the user by cosine (a baseline of E2P).

    A user without a vector gets the first n as they were drawn.
    """

    def __init__(self, generator: SidRecommender, methods: Methods, m: int):
        self.generator, self.m = generator, m
        self.users, self.items = methods.retrieval.users, methods.retrieval.items

    def recommend(self, requests: Sequence[Request], n: int, temperature: float, seed: int) -> list[Any]:
        vectors, known = self.users.vectors(requests)
        ranked = []
        for vector, is_known, answer in zip(
            vectors, known, self.generator.recommend(requests, max(n, self.m), temperature, seed), strict=True
        ):
            scores = self.items[answer.items] @ vector
            best = np.argsort(-scores, kind="stable")[:n] if is_known else np.arange(min(n, len(scores)))
            ranked.append(replace(answer, items=answer.items[best], scores=scores[best]))
        return ranked


def liked_above(scores: np.ndarray, labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The chance [Q] that an engaged item of a list scores above one that is not (AUC within the list); NaN without both kinds."""
    found = np.full(len(offsets) - 1, np.nan)
    for row, (start, stop) in enumerate(pairwise(offsets.tolist())):
        liked = labels[start:stop]
        n, m = int(liked.sum()), int((~liked).sum())
        if n and m:
            ranks = rankdata(scores[start:stop])
            found[row] = (ranks[liked].sum() - n * (n + 1) / 2) / (n * m)
    return found


def save_lists(
    path: Path, lists: dict[str, np.ndarray], methods: Methods, requests: Sequence[Request]
) -> None:
    """Write what every row listed: row, replica, request, user, query, rank, item_id."""
    data, columns = methods.dataset, {"row": [], "replica": [], "request": [], "rank": [], "item": []}  # type: ignore[var-annotated]
    for name, of_row in lists.items():
        replica, request, rank = np.nonzero(of_row >= 0)
        columns["row"] += [name] * len(rank)
        for key, values in (("replica", replica), ("request", request), ("rank", rank + 1)):
            columns[key].append(values)
        columns["item"].append(of_row[replica, request, rank])
    request = np.concatenate(columns["request"])
    users = np.array([-1 if one.user is None else one.user for one in requests])[request]
    table = {
        "row": pa.array(columns["row"]).dictionary_encode(),
        "replica": np.concatenate(columns["replica"]),
        "request": request,
        "user": users,  # whose it is: `prelude user … delete` must find it
        "query": pa.array([one.query for one in requests], pa.string()).take(pa.array(request)),
        "rank": np.concatenate(columns["rank"]),
        "item_id": pa.array(list(data.catalogue.item_ids), pa.string()).take(
            pa.array(np.concatenate(columns["item"]))
        ),
    }
    pq.write_table(pa.table(table), path)
