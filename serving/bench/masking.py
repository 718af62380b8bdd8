"""Mask and draw alone: 64 requests × 30 i.i.d. draws through four levels, whatever wrote the logits.

Both peers do the same work on the same logits, exclusions and uniform numbers,
so they must draw the same items, and the case stops if they do not:

  dict trie      nested dicts, as `prefix_allowed_tokens_fn` has them: Python finds each distinct node's
                 allowed codes and fills its row of a mask; the softmax and the draw are batched over
                 all nodes
  dense compare  no trie: each distinct prefix is compared with the codes of the whole catalogue

Catalogues are of random distinct codes. Those of real items are less even: more nodes are wide, and none is
wider than 256.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from llm.backbone.load import BackboneConfig, load_backbone
from recsys.seeds import rng
from recsys.training.loop import keep_freed_memory
from semantic_ids.trie import Trie
from serving.bench.case import Result, Timing, in_turn, timed
from serving.bench.masking_sides import (
    DRAWS,
    LEVELS,
    REQUESTS,
    SEED,
    SIZE,
    Work,
    by_compare,
    by_dict,
    dict_trie,
    keys_of,
    ours,
    random_codes,
    work_of,
)

PROMPT = 60  # tokens
CATALOGUES = (10_000, 100_000, 1_000_000, 10_000_000)
MEASURED_PROMPTS = 8  # of which the forward's rate is measured


def mask_and_draw(quick: bool) -> list[Result]:
    """Against both peers by catalogue size; the share of the model's forward;
    how flat it is in the catalogue's size.

    `quick` leaves out the dict trie of ten million items (it takes half a minute and 2.4 GB to
    build) and the dense compare from a million items on (8 s a batch). The dense compare of ten
    million is always left out (minutes).
    """
    keep_freed_memory()  # as the samplers do; it is the whole process's, so the peers have it too
    repeats = 3 if quick else 7
    results, tries = [], {}
    for n_items in CATALOGUES:
        codes = random_codes(n_items)
        start = time.perf_counter()
        tries[n_items] = Trie(codes, (SIZE,) * LEVELS)
        notes = {
            "build_s": time.perf_counter() - start,
            "trie_bytes": tries[n_items].n_bytes,
            "n_items": n_items,
        }
        if n_items < 10_000_000 or not quick:
            results.append(_against_dict(tries[n_items], codes, repeats, notes))
        if n_items <= (100_000 if quick else 1_000_000):
            results.append(
                _against_dense(tries[n_items], codes, 1 if n_items >= 1_000_000 else repeats, notes)
            )
    return [*results, _share_of_forward(tries[1_000_000], repeats), _flatness(tries, 21 if quick else 51)]


def _against_dict(trie: Trie, codes: np.ndarray, repeats: int, notes: dict[str, Any]) -> Result:
    with dict_trie(codes) as (root, build_s):
        work = work_of(trie.n_items)
        agreement = _agreement(ours(trie, work), by_dict(root, codes, work))
        timing = in_turn(lambda: ours(trie, work), lambda: by_dict(root, codes, work), repeats)
    name = f"mask and draw, {trie.n_items:,} items: dict trie"
    return timed(
        name,
        "nested dicts, allowed codes in Python",
        timing,
        1.0,
        _limit(trie, work, timing.ours),
        **notes,
        peer_build_s=build_s,
        same_items=agreement,
    )


def _against_dense(trie: Trie, codes: np.ndarray, repeats: int, notes: dict[str, Any]) -> Result:
    columns = [np.ascontiguousarray(codes[:, level].astype(np.uint8)) for level in range(LEVELS)]
    order = np.argsort(keys_of(columns))
    work = work_of(trie.n_items)
    agreement = _agreement(ours(trie, work), by_compare(columns, order, work))
    warm = trie.n_items < 1_000_000
    timing = in_turn(lambda: ours(trie, work), lambda: by_compare(columns, order, work), repeats, warm)
    name = f"mask and draw, {trie.n_items:,} items: dense compare"
    return timed(
        name,
        "each prefix against all items",
        timing,
        1.0,
        _limit(trie, work, timing.ours),
        **notes,
        same_items=agreement,
    )


def _share_of_forward(trie: Trie, repeats: int) -> Result:
    """Our seconds over those of the forward that makes the logits:
    64 prompts and the nodes that branch, by tokens.
    """
    model = load_backbone(BackboneConfig(name="smollm2")).model
    tokens = torch.from_numpy(rng(SEED, "prompts").integers(0, 1000, (MEASURED_PROMPTS, PROMPT)))
    work = work_of(trie.n_items)

    @torch.no_grad()
    def forward() -> None:
        model(input_ids=tokens, use_cache=False)

    timing = in_turn(lambda: ours(trie, work), forward, repeats)
    n_tokens = REQUESTS * PROMPT + sum(_branching_nodes(trie, work)[1:])
    scale = n_tokens / tokens.numel()
    forwards = [seconds * scale for seconds in timing.peers]
    ratio, spread = Timing(timing.ours, forwards, None, None).share
    return Result(
        "mask and draw, 1,000,000 items: share of the model's forward",
        "SmolLM2-135M's forward of the same batch",
        ratio,
        spread,
        0.01,
        True,
        statistics.median(timing.ours),
        statistics.median(forwards),
        "s",
        repeats,
        _limit(trie, work, timing.ours),
        {
            "forward": f"{tokens.numel()} tokens measured, scaled to {n_tokens}: {REQUESTS} prompts of "
            f"{PROMPT}, then the distinct nodes with more than one child",
            "measured_forward_s": statistics.median(timing.peers),
        },
    )


def _flatness(tries: dict[int, Trie], rounds: int) -> Result:
    """The slowest catalogue size over the fastest, by medians;
    the spread is that of the same two, round by round.
    """
    seconds: dict[int, list[float]] = {n_items: [] for n_items in tries}
    works = {n_items: work_of(n_items) for n_items in tries}
    for _ in range(rounds):
        for n_items, trie in tries.items():
            start = time.perf_counter()
            ours(trie, works[n_items])
            seconds[n_items].append(time.perf_counter() - start)
    median = {n_items: statistics.median(times[1:]) for n_items, times in seconds.items()}
    slow, fast = max(median, key=median.__getitem__), min(median, key=median.__getitem__)
    pairs = [a / b for a, b in zip(seconds[slow][1:], seconds[fast][1:], strict=True)]
    width = {n_items: max(trie.max_children[1:]) for n_items, trie in tries.items()}
    return Result(
        "mask and draw: slowest catalogue size over fastest",
        f"ours at {fast:,} items (slowest: {slow:,})",
        median[slow] / median[fast],
        (min(pairs), max(pairs)),
        1.5,
        True,
        median[slow],
        median[fast],
        "s",
        rounds - 1,
        "nodes of larger catalogues have more children, and each child is an exponential: "
        + "; ".join(
            _floor_in_words(trie, works[n_items], median[n_items]) for n_items, trie in tries.items()
        ),
        {
            "seconds": {f"{n_items:,}": value for n_items, value in median.items()},
            "widest_node_below_the_root": {f"{n_items:,}": value for n_items, value in width.items()},
        },
    )


def _agreement(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Share of the draws that are the same item; a draw may differ where its number is
    within rounding of a boundary.
    """
    same = float((mine == theirs).mean())
    if same < 0.999:
        raise ValueError(
            f"the two sides drew the same item in {same:.1%} of the draws; expected all but rounding"
        )
    return same


def _branching_nodes(trie: Trie, work: Work) -> list[int]:
    """Distinct nodes with more than one child that the draws of a level stand at, for each level."""
    items = torch.from_numpy(ours(trie, work))
    path = trie.path(items)
    row = torch.arange(REQUESTS).repeat_interleave(DRAWS)
    numbers = []
    for level in range(LEVELS):
        node = torch.unique(row * trie.n_nodes[level] + path[:, level]) % trie.n_nodes[level]
        children = trie.child_start[level][node + 1] - trie.child_start[level][node]
        numbers.append(int((children > 1).sum()))
    return numbers


def _limit(trie: Trie, work: Work, seconds: list[float]) -> str:
    share = _floor_in_words(trie, work, statistics.median(seconds))
    return f"some 370 tensor operations, most of them on a few thousand numbers; {share}"


def _floor_in_words(trie: Trie, work: Work, seconds: float) -> str:
    """One softmax over the distinct nodes' widest rows, which no exact draw avoids,
    as a share of our time.
    """
    path = trie.path(torch.from_numpy(ours(trie, work)))
    row = torch.arange(REQUESTS).repeat_interleave(DRAWS)
    floor = 0.0
    for level, logits in enumerate(work.logits):
        node = torch.unique(row * trie.n_nodes[level] + path[:, level]) % trie.n_nodes[level]
        widest = int((trie.child_start[level][node + 1] - trie.child_start[level][node]).max())
        table = logits[: len(node), :widest].contiguous()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            table.softmax(1)
            times.append(time.perf_counter() - start)
        floor += min(times)
    return f"{trie.n_items:,} items: the softmax alone is {floor / seconds:.0%}"
