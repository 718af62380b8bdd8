"""The case `service` of `prelude bench`: a service on a run under load, and what an allow-list of half of ten million items costs.

The run is the one that PRELUDE_RUN names, or runs/demo; where there is none, the load is left out.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm.backbone.conditions import NOTHING
from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows
from llm.decoding.draws import search
from llm.decoding.scoring import constraints_of
from llm.decoding.session import PromptSession
from recsys.recommender import Request
from recsys.seeds import rng
from semantic_ids.trie import Trie
from serving.bench.case import Result
from serving.bench.masking_sides import LEVELS, SIZE, random_codes
from serving.bench.service.measure import CALLERS, measured

CATALOGUE, PROMPT, LAYERS = 10_000_000, 18, 6


def under_load(quick: bool) -> list[Result]:
    """Requests a second, tails, events and memory on a run, where there is one; then the allow-list."""
    run = Path(os.environ.get("PRELUDE_RUN", "runs/demo"))
    found = allow_list(quick)
    if (run / "manifest.json").exists():
        found += of_figures(measured(run, 10 if quick else 30, 3, 0 if quick else 100_000, lambda text: None))
    return found


def of_figures(figures: dict[str, Any]) -> list[Result]:
    """The lines of what `measured` says."""
    ours = figures["requests_a_second"]

    def rates(peer: str, theirs: list[float], target: float) -> Result:
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        spread = min(ratios), max(ratios)
        return Result(
            f"the service, {CALLERS} callers", peer, statistics.median(ratios), spread, target, False,
            statistics.median(ours), statistics.median(theirs), "requests/s", len(ours),
            "one thread has the model: a packed pass of its requests", {},
        )  # fmt: skip

    half, events = figures["half_rate"], figures["events"]
    ratio = half["p99_over_p50"]
    found = [
        rates("a FastAPI handler that calls Recommender.recommend under its lock", figures["plain_handler"], 5.0),
        rates("playlists, micro-batches of as many", figures["playlists_a_second"], 0.8),
        Result("the service at half its highest rate: p99", "its p50", ratio, (ratio, ratio), 4.0, True, half["p99_ms"],
               half["p50_ms"], "ms", 1, "what waits behind a pass", {"rate": half["rate"], "failed": half["failed"]}),
        Result("events into SQLite, acknowledged durably, beside 20 requests/s", "2,000 a second",
               events["events_a_second"] / 2000, (events["events_a_second"] / 2000,) * 2, 0.95, False,
               events["events_a_second"], 2000.0, "events/s", 1, "a transaction on the disk a group", events),
    ]  # fmt: skip
    if "memory" in figures:
        memory = figures["memory"]
        grown = memory["mib_after"] - memory["mib_before"]
        found.append(
            Result(f"memory over {memory['requests']:,} different requests", "after the first thousand", grown / 100, (grown / 100,) * 2,
                   1.0, True, memory["mib_after"], memory["mib_before"], "MiB", 1, "", memory)
        )  # fmt: skip
    return found


def allow_list(quick: bool, n_items: int = CATALOGUE, layers: int = LAYERS) -> list[Result]:
    """p99 of lists of ten with a shared allow-list of every second item over p99 without, in turn, one request a pass; and over
    that of lists of twenty without.

    SmolLM2's first layers over random items; prompts are random. The list is sorted once, before anything is timed, as a
    service's named lists are. Lists are exact: the tenth of half of the items ranks as deep as about the twentieth of all, and as
    many nodes are read on the way to it, with these flat probabilities of an untrained model many.
    """
    backbone = load_backbone(BackboneConfig(name="smollm2", layers=layers, device="cpu"))
    rows, sizes = SidRows((SIZE,) * LEVELS, backbone.hidden_size), (SIZE,) * LEVELS
    rows.start_from([None] * LEVELS, float(backbone.text_embeddings.float().norm(dim=1).mean()), seed=0)
    model = SidModel(backbone, rows, Trie(random_codes(n_items), sizes)).eval().requires_grad_(False)
    stock = np.arange(0, n_items, 2)
    stock.flags.writeable = False
    count = 100 if quick else 400
    prompts = rng(0, "allow-list prompts").integers(0, 49_000, (count, PROMPT)).tolist()

    def seconds(allow: np.ndarray | None, prompt: list[int], n: int = 10) -> float:
        started = time.perf_counter()
        with torch.no_grad():
            request = Request("bench", 0, 1, allow=allow)
            session = PromptSession(model, [prompt], NOTHING, constraints_of(model.trie, [request]))
            found = search(session, n)[0]
        assert len(found.items) == n
        assert allow is None or not (found.items % 2).any()
        return time.perf_counter() - started

    first = seconds(stock, prompts[0])
    took = np.array([(seconds(stock, one), seconds(None, one), seconds(None, one, 20)) for one in prompts])
    p99, medians = np.quantile(took, 0.99, axis=0).tolist(), np.median(took, axis=0).tolist()
    quarters = np.array([np.quantile(part, 0.99, axis=0) for part in np.array_split(took, 4)])

    def over(side: int, peer: str, target: float | None, limit: str) -> Result:
        ratios = quarters[:, 0] / quarters[:, side]
        return Result(
            f"an allow-list of {len(stock):,} of {n_items:,} items: p99 of a list of ten", peer, p99[0] / p99[side],
            (float(ratios.min()), float(ratios.max())), target, True, p99[0], p99[side], "s", count, limit,
            {"p50_with": medians[0], "p50_without": medians[side], "first_s": first},
        )  # fmt: skip

    return [
        over(1, "the same without a list", 1.05, "nodes that rank above the tenth allowed item"),
        over(2, "a list of twenty without", None, "what is looked up in the list, and chance"),
    ]
