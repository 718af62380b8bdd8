"""Training of the stage `embed`: SASRec's losses, LightGCN's epoch and item-kNN's choice, each against its form before.

Both sides are ours, on made data of Amazon Beauty's size: what is compared is a step, an epoch, a choice; what quality they end in is
measured on the data sets themselves (BENCHMARKS.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse

from recsys.embeddings.item_knn import CoOccurrence
from recsys.embeddings.lightgcn import (
    LightGCN,
    LightGCNConfig,
    normalised_adjacency,
    optimizer_of,
    step_of_training,
    steps_of_epoch,
)
from recsys.embeddings.sasrec import CPU_PIECES, SasRec, SasRecConfig, step_of_losses
from recsys.embeddings.sequences import Batches
from recsys.seeds import rng
from recsys.training.loop import clip_gradient, keep_freed_memory
from recsys.training.row_adam import RowAdam
from serving.bench.case import Result, in_turn, timed

SEED = 0
BEAUTY = (22_363, 12_101, 153_776)  # users, items and training events of Amazon Beauty
SASREC = {
    "dim": 64,
    "temperature": 0.07,
    "batch": 512,
    "text": True,
    "device": "cpu",
}  # as in configs/beauty.yaml
NEIGHBOURS, SHRINKS = 200, (0.0, 5.0, 20.0, 100.0)  # the defaults


def events_of(n_users: int, n_items: int, n_events: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and times, in order of (user, time): two events a user at least, popular items and long users by power laws."""
    draw = rng(SEED, "events")
    weight = (10.0 + np.arange(n_users)) ** -0.5
    more = draw.choice(n_users, n_events - 2 * n_users, p=weight / weight.sum())
    users = np.sort(np.concatenate([np.repeat(np.arange(n_users), 2), more]))
    weight = (10.0 + np.arange(n_items)) ** -0.7
    return users, draw.choice(n_items, n_events, p=weight / weight.sum()), np.arange(n_events)


def sasrec_step(quick: bool) -> list[Result]:
    """Seconds a step of Beauty's SASRec: chunked and sampled softmax against logits of all positions × items."""
    keep_freed_memory()
    events, steps, repeats = events_of(*BEAUTY), 2 if quick else 8, 3 if quick else 7
    text = rng(SEED, "text").normal(size=(BEAUTY[1], 384)).astype(np.float32)

    def side(**settings: object) -> Callable[[], None]:
        config = SasRecConfig.model_validate(SASREC | settings)
        model = SasRec(BEAUTY[1], config, SEED, text).train()
        pieces = CPU_PIECES if config.loss == "softmax" else None
        batches = Batches(events, config.max_items, config.batch, SEED, pieces)
        optimizer = RowAdam(model.parameters(), lr=1e-3, fused=True)
        loss = step_of_losses(model, batches, events[1], SEED)
        done = 0

        def train() -> None:
            nonlocal done
            for index in range(done, done + steps):
                optimizer.zero_grad()
                loss(index).backward()
                clip_gradient(list(model.parameters()), config.clip_norm)
                optimizer.step()
            done += steps

        return train

    forms: dict[str, dict[str, Any]] = {
        "chunked softmax": {"loss": "chunked_softmax"},
        "sampled softmax, 1,024 negatives": {"loss": "sampled_softmax", "negatives": 1024},
        "sampled softmax, 2,048 negatives": {"loss": "sampled_softmax", "negatives": 2048},
    }
    results = []
    for name, settings in forms.items():
        timing = in_turn(side(**settings), side(), repeats)
        results.append(
            timed(
                f"{steps} SASRec steps of Amazon Beauty's size: {name}",
                "logits of all positions × items, padding of four pieces",
                timing,
                None,
                "matrix products: the catalogue's (chunked); the transformer's, dropout's draws (sampled)",
                our_peak_bytes=timing.our_peak,
                peer_peak_bytes=timing.peer_peak,
                threads=torch.get_num_threads(),
            )
        )
    return results


def lightgcn_epoch_of_many(quick: bool) -> list[Result]:
    """An epoch of a graph of more than 64 batches: at most 64 steps against a propagation for each batch."""
    keep_freed_memory()
    n_events = 1_000_000 if quick else 4_000_000
    users, items, _ = events_of(n_events // 10, n_events // 20, n_events)
    graph = normalised_adjacency(users, items, n_events // 10, n_events // 20)
    now = LightGCNConfig(dim=16)
    before = now.model_copy(update={"steps_per_epoch": n_events})
    timed_steps = 1 if quick else 2

    def side(config: LightGCNConfig) -> Callable[[], None]:
        model = LightGCN(graph, n_events // 10, config, SEED)
        step, optimizer = step_of_training(model, users, items, SEED), optimizer_of(model)

        def train() -> None:
            for index in range(timed_steps):
                optimizer.zero_grad()
                step(index).backward()
                optimizer.step()

        return train

    timing = in_turn(side(now), side(before), 3)
    epochs = [steps_of_epoch(len(users), config) / timed_steps for config in (now, before)]
    ours, peers = (
        [s * times for s in side] for side, times in zip((timing.ours, timing.peers), epochs, strict=True)
    )
    ratios = [theirs / own for own, theirs in zip(ours, peers, strict=True)]
    return [
        Result(
            f"LightGCN epoch, {n_events:,} made events, at most {now.steps_per_epoch} steps",
            "a propagation for every 8,192 edges",
            statistics.median(ratios), (min(ratios), max(ratios)), None, False,
            statistics.median(ours), statistics.median(peers), "s", len(ratios),
            "memory bandwidth of the sparse products",
            {"steps": steps_of_epoch(len(users), now), "peer_steps": steps_of_epoch(len(users), before),
             "steps_timed": timed_steps, "dim": now.dim},
        )
    ]  # fmt: skip


def item_knn_choice(quick: bool) -> list[Result]:
    """Similarities of all items for four shrinkages: one pass over co-occurrence against four, each with whole sorts."""
    n_users, n_items, n_events = BEAUTY if quick else (200_000, 100_000, 2_000_000)
    users, items, _ = events_of(n_users, n_items, n_events)

    def ours() -> list[sparse.csr_array]:
        return CoOccurrence(users, items, n_items).similar(SHRINKS, NEIGHBOURS)

    def before() -> list[sparse.csr_array]:
        return [by_whole_sorts(users, items, n_items, shrink, NEIGHBOURS) for shrink in SHRINKS]

    same = all(map(_same, ours(), before()))
    timing = in_turn(ours, before, 2 if quick else 3, warm_up=False)
    return [
        timed(
            f"item-kNN, {n_events:,} events: similarities for {len(SHRINKS)} shrinkages",
            "as before: a product and a sort of all its entries for each",
            timing,
            None,
            "the sparse product: Σ of squared lengths of histories",
            same_to_the_bit=int(same),
            our_peak_bytes=timing.our_peak,
            peer_peak_bytes=timing.peer_peak,
        )
    ]


def by_whole_sorts(
    users: np.ndarray, items: np.ndarray, n_items: int, shrink: float, neighbours: int, block: int = 1024
) -> sparse.csr_array:
    """sim [N, N] as it was made before: 1,024 rows at a time, all entries sorted by (row, similarity)."""
    pairs = np.unique(np.stack([users, items]), axis=1)
    ones = np.ones(pairs.shape[1], np.float32)
    seen = sparse.csr_array((ones, (pairs[0], pairs[1])), shape=(int(pairs[0].max()) + 1, n_items))
    by_item, roots = seen.T.tocsr(), np.sqrt(np.bincount(pairs[1], minlength=n_items))
    blocks = []
    for start in range(0, n_items, block):
        together = (by_item[start : start + block] @ seen).tocoo()
        row, column = together.row + start, together.col
        other = row != column
        row, column, count = row[other], column[other], together.data[other]
        values = count / (roots[row] * roots[column] + shrink)
        order = np.lexsort((column, -values, row))
        row, column, values = row[order], column[order], values[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < neighbours
        blocks.append((row[kept], column[kept], values[kept]))
    row, column, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return sparse.csr_array((values.astype(np.float32), (row, column)), shape=(n_items, n_items))


def _same(ours: sparse.csr_array, before: sparse.csr_array) -> bool:
    pairs = ((getattr(ours, part), getattr(before, part)) for part in ("indptr", "indices", "data"))
    return all(np.array_equal(a, b) for a, b in pairs)
