"""Stage `music`: every row's playlists for the test queries, judged by a listener (E2P's music task).

The listener has seen none of these lists.

Rows: Embedding Reranking (the best n of m candidates of No Context, by cosine to the very vector that E2P
reads), No Context, every row of the stage `align` (Static Prefix and E2P by LM and by KTO, E2P by KTO eq. 5,
…), and E2P-Random for those that read a user's vector. Every list is n distinct items drawn without
replacement, at one temperature for all rows and, in a second column, at the one that validation chose for the
row. Beside the proxy stand figures that no predictor is needed for: how far a row's own probabilities put
what was engaged with above what was not, hits on both kinds, and how spread out what it draws is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from evaluation.engagement.plots import engagement_forest, reliability_plot
from evaluation.metrics import expected_hit, pad_lists
from evaluation.music.judge import PlaylistRow
from evaluation.music.metrics import liked_above
from evaluation.music.table import music_table
from evaluation.statistics import user_means
from llm.decoding.recommender import SidRecommender
from llm.methods.e2p import E2PConfig
from llm.prompts.reading import OfAnother, Reading
from recsys.artifacts.rewrite import write_text_atomically
from recsys.embeddings.user_vectors import partners_of_other_users
from recsys.engagement.shown_lists import GENERATOR_VALIDATION, ShownLists
from recsys.progress import Progress
from recsys.recommender import Request
from recsys.run import Run
from recsys.seeds import rng
from serving.answering.methods import Methods
from serving.config.run import RunConfig
from serving.stages.listener import Listener, affinity_correlation, fit_listener, units
from serving.stages.reranking import Reranking

NEEDS = ("prepare", "embed", "tokenize", "adapt", "engagement", "align")
NO_CONTEXT, RERANKING = "no_context", "embedding_reranking"  # keys
DRAWS = 30  # i.i.d., from which a row's entropy and share of distinct items are estimated
BLOCK = 250  # requests between two checkpoints


@dataclass(frozen=True)
class Source:
    """Where a row's lists come from: a name, one recommender a replica,
    and the key of the row whose temperature it takes.
    """

    key: str
    name: str
    replicas: Sequence[Callable[[], Any]]
    like: str


def music(config: RunConfig, run: Run, quiet: bool = False) -> dict[str, Any]:
    """Run the stage; see the module. Returns `music.json`. A killed stage goes on
    at the row and block it was at.
    """
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
        """Every row's lists [K, R, n] and figures, as `evaluation.music.table` compares them."""
        rows: dict[str, PlaylistRow] = {}
        own: dict[str, dict[str, Any]] = {}
        temperatures: dict[str, float] = {}
        test = self.listener.judge.test
        for source in self.sources():
            assert source.name not in rows, "two rows of one name"
            if source.like not in temperatures:
                temperatures[source.like] = self._temperature(source)
            t = temperatures[source.like]
            answers = [self._answers(source, at, build, t) for at, build in enumerate(source.replicas)]
            self.lists[source.name] = np.stack([one["lists"] for one in answers])
            above = None
            if "shown" in answers[0]:
                above = [liked_above(one["shown"], test.labels, test.offsets) for one in answers]
                own[source.name] = self._spread(answers)
            own.setdefault(source.name, {})["temperature"] = t
            rows[source.name] = self.listener.judge.row(
                list(self.lists[source.name]),
                with_affinity=source.key != RERANKING,
                above=above,
                sharpened=[one["sharpened"] for one in answers],
            )
        primary = self.config.primary
        controls = [self._name(self.config.control)]
        controls += [self._random_name(primary)] if self._random_name(primary) in rows else []
        table = music_table(
            rows, self.listener.users, self.methods.dataset.n_items, self._name(primary), controls,
            self.methods.name(NO_CONTEXT), self.config.seed,
        )  # fmt: skip
        for row in table["rows"]:
            row["own"] = own[row["name"]]
        return table | {
            "n": self.config.n,
            "temperature": self.config.temperature,
            "rerank_from": self.config.rerank_from,
            "target": self.align.target,
            "seeds": list(self.align.seeds),
            "kept_their_start": self._kept_their_start(),
            "affinity_rank_correlation": affinity_correlation(self.listener.judge),
        }

    def sources(self) -> list[Source]:
        """The rows, in the table's order."""

        def plain() -> SidRecommender:
            return self._recommender(NO_CONTEXT, self.methods.reading(NO_CONTEXT))

        def reranked() -> Reranking:
            return Reranking(plain(), self.methods, self.config.rerank_from)

        rows = [
            Source(RERANKING, "Embedding Reranking", [reranked], NO_CONTEXT),
            Source(NO_CONTEXT, self.methods.name(NO_CONTEXT), [plain], NO_CONTEXT),
        ]
        for row in self.align.rows:
            rows.append(
                Source(
                    row.key, row.name, [self._aligned(row.key, seed) for seed in self.align.seeds], row.key
                )
            )
            if isinstance(row.method, E2PConfig) and row.key in self.config.random_of:
                rows.append(self._random(row.key))
        return rows

    def _kept_their_start(self) -> list[str]:
        """Rows that on validation never beat the LM row that they started from, and so are it."""
        report = self.methods.run.read_json("align", "align.json")["rows"]
        return [
            f"{row.name}, seed {seed}"
            for row in self.align.rows
            for seed in self.align.seeds
            if row.objective != "lm" and report[f"{row.key}-{seed}"]["best_step"] == 0
        ]

    def _name(self, key: str) -> str:
        return self.align.row(key).name

    def _random_name(self, key: str) -> str:
        name = self._name(key)
        return name.replace("E2P", "E2P-Random", 1) if "E2P" in name else f"{name}, another user's vector"

    def _aligned(self, key: str, seed: int) -> Callable[[], SidRecommender]:
        return lambda: self._recommender(key, self.methods.reading(key, seed))

    def _random(self, key: str) -> Source:
        """The trained row, each request conditioned as one of another user is; several permutations."""

        def build(number: int) -> Callable[[], SidRecommender]:
            def built() -> SidRecommender:
                reading = self.methods.reading(key, self.align.seeds[number % len(self.align.seeds)])
                assert reading.personalizer is not None
                generator = rng(self.config.seed, "music random", number)
                partner = partners_of_other_users(self.listener.users, generator)
                other = OfAnother(reading.personalizer, self.requests, partner)
                return self._recommender(key, replace(reading, personalizer=other))

            return built

        replicas = [build(number) for number in range(self.config.random_permutations)]
        return Source(f"{key}_random", self._random_name(key), replicas, key)

    def _recommender(self, name: str, reading: Reading) -> SidRecommender:
        return self.methods.recommender(name, reading)

    def _temperature(self, source: Source) -> float:
        """The temperature of the grid at which n draws would hold an engaged item
        of a validation list most often.
        """
        path = self.checkpoint / f"{source.like}-temperature.json"
        if not path.exists():
            key = NO_CONTEXT if source.key == RERANKING else source.key
            recommender = self._recommender(key, self.methods.reading(key))
            requests, targets = self._validation
            log_p = recommender.log_prob_at(requests, targets, self.config.temperature_grid)
            users = units(np.array([-1 if one.user is None else one.user for one in requests]))
            rates = [user_means(expected_hit(column, self.config.n), users)[1].mean() for column in log_p.T]
            write_text_atomically(path, json.dumps(self.config.temperature_grid[int(np.argmax(rates))]))
        return float(json.loads(path.read_text()))

    @cached_property
    def _validation(self) -> tuple[list[Request], np.ndarray]:
        """Engaged items of the generator's validation lists, and their requests."""
        lists, data = ShownLists.load(self.methods.run), self.methods.dataset
        pairs = [
            (at, int(item))
            for at in lists.of(GENERATOR_VALIDATION)
            for item, engaged in zip(*lists.shown(int(at)), strict=True)
            if engaged
        ]
        order = rng(self.config.seed, "music validation").permutation(len(pairs))
        chosen = [pairs[at] for at in order[: self.config.validation_instances]]
        return lists.requests([at for at, _ in chosen], data), np.array([item for _, item in chosen])

    # -- answers ---------------------------------------------------------------------------------------------

    def _answers(
        self, source: Source, replica: int, build: Callable[[], Any], t: float
    ) -> dict[str, np.ndarray]:
        """`lists` and, at temperature t, `sharpened` [R, n]; of rows with probabilities,
        `entropy` and `distinct` [R] and log p of what was `shown` [S].
        """
        parts, recommender = [], None
        label = source.name if replica == 0 else f"{source.name}, {replica + 1}"
        bar = Progress(total=len(self.requests), desc=label, unit="list", disable=self.quiet, mininterval=1.0)
        for start in range(0, len(self.requests), BLOCK):
            path = self.checkpoint / f"{source.key}-{replica}-{start}.safetensors"
            if path.exists():
                part = load_file(path)
            else:
                recommender = recommender or build()
                part = self._block(recommender, slice(start, start + BLOCK), t)
                save_file(part, str(path) + ".new")
                os.replace(f"{path}.new", path)
            parts.append(part)
            bar.update(len(part["lists"]))
        bar.close()
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _block(self, recommender: Any, rows: slice, t: float) -> dict[str, np.ndarray]:
        requests, n, seed = self.requests[rows], self.config.n, self.config.seed
        found = {}
        for name, temperature in (("lists", self.config.temperature), ("sharpened", t)):
            ranked = recommender.recommend(requests, n, temperature, seed)
            found[name] = pad_lists([answer.items for answer in ranked], n)
        if isinstance(recommender, SidRecommender):
            items, log_probs = recommender.draw(requests, DRAWS, 1.0, seed)
            found["distinct"] = np.array([len(np.unique(row)) / DRAWS for row in items])
            found["entropy"] = -log_probs.mean(1)
            found["shown"] = self._log_prob_of_shown(recommender, rows)
        return found

    def _log_prob_of_shown(self, recommender: SidRecommender, rows: slice) -> np.ndarray:
        test = self.listener.judge.test
        of = np.arange(len(self.requests))[rows]
        counts = np.diff(test.offsets)[of]
        items = test.items[test.offsets[of[0]] : test.offsets[of[-1] + 1]]
        asked: list[Request] = [self.requests[at] for at in np.repeat(of, counts)]
        return np.asarray(recommender.log_prob(asked, items), dtype=np.float64)

    def _spread(self, answers: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
        """Means over users of a row's entropy (nats) and of the share of its draws that are distinct."""
        return {
            key: float(
                user_means(np.mean([one[key] for one in answers], axis=0), self.listener.users)[1].mean()
            )
            for key in ("entropy", "distinct")
        }


def save_lists(
    path: Path, lists: dict[str, np.ndarray], methods: Methods, requests: Sequence[Request]
) -> None:
    """Write what every row listed: row, replica, request, user, query, rank, item_id."""
    data = methods.dataset
    columns: dict[str, list[Any]] = {"row": [], "replica": [], "request": [], "rank": [], "item": []}
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
