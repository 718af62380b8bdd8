"""Exact scoring: the log-probability of given items for many requests, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llm.backbone.batching import BUDGET, by_length
from llm.backbone.conditions import NOTHING, Condition
from llm.backbone.sid_model import SidModel
from llm.decoding.draws import score
from llm.decoding.left import nodes_of
from llm.decoding.session import PromptSession
from llm.prompts.reading import Reading
from recsys.recommender import Request
from recsys.training import distributed
from semantic_ids.constraints import Constraints
from semantic_ids.trie import Trie


def constraints_of(trie: Trie, requests: Sequence[Request]) -> Constraints:
    """What each request may get, for sampler and scorer alike."""
    return Constraints(trie, [r.exclude for r in requests], [r.allow for r in requests])


@torch.no_grad()
def log_probs(
    model: SidModel,
    prompts: Sequence[Sequence[int]],
    items: np.ndarray,
    condition: Condition = NOTHING,
    temperatures: Sequence[float] = (1.0,),
    requests: Sequence[Request] | None = None,
    budget: int = BUDGET,
) -> np.ndarray:
    """log p [R, G] (float64) of `items` [R] after `prompts` at each of G temperatures: one forward pass, and where something
    is left out, the nodes that say how much (`llm.decoding.left`).

    −inf where an item is not available to its request in `requests`. `budget` (bytes) bounds what a batch
    takes.
    """
    result = np.empty((len(prompts), len(temperatures)))
    levels, items = model.trie.n_levels, np.asarray(items, dtype=np.int64)
    lengths, free = np.array([len(prompt) for prompt in prompts], np.int64), np.arange(len(prompts))
    if requests is not None:
        limited = np.array([len(one.exclude) > 0 or one.allow is not None for one in requests], bool)
        free, some = free[~limited], free[limited]
        more = nodes_of(model.trie, [requests[row] for row in some]) + levels
        for part in by_length(lengths[some] + more, model.footprint, levels, levels, budget):
            rows = some[part]
            asked = constraints_of(model.trie, [requests[row] for row in rows])
            session = PromptSession(model, [prompts[row] for row in rows], condition.rows(rows), asked)
            result[rows] = score(session, items[rows], temperatures)
    for part in by_length(lengths[free], model.footprint, levels, levels, budget):
        rows = free[part]
        states = model.item_states([prompts[row] for row in rows], items[rows], condition.rows(rows))
        for column, temperature in enumerate(temperatures):
            value = model.path_log_probs(states, torch.from_numpy(items[rows]), temperature)
            result[rows, column] = value.double().cpu().numpy()
    return result


@torch.no_grad()
def log_probs_of(
    reading: Reading,
    requests: Sequence[Request],
    items: np.ndarray,
    temperatures: Sequence[float] = (1.0,),
    budget: int = BUDGET,
    among_available: bool = True,
) -> np.ndarray:
    """`log_probs` [R, G] of one item a request, as a method reads the requests;
    conditions are made a batch at a time. Not `among_available`: in the whole catalogue, which is cheaper.
    """
    result = np.empty((len(requests), len(temperatures)))
    prompts, model = reading.prompts(requests), reading.model
    levels = model.trie.n_levels
    lengths = [len(prompt) + reading.soft_tokens for prompt in prompts]
    for rows in by_length(lengths, model.footprint, levels, levels, budget, reading.row_bytes):
        some = [requests[row] for row in rows]
        placed, condition = reading.conditioned([prompts[row] for row in rows], some)
        limits = some if among_available else None
        result[rows] = log_probs(
            model, placed, np.asarray(items)[rows], condition, temperatures, limits, budget
        )
    return result


@torch.no_grad()
def list_log_probs_of(
    reading: Reading, requests: Sequence[Request], lists: Sequence[np.ndarray], budget: int = BUDGET
) -> np.ndarray:
    """log p [R] (float64) of a whole list a request (`SidModel.list_log_probs`),
    with the request's exclusions and allow-list.
    """
    result = np.empty(len(requests))
    prompts, model = reading.prompts(requests), reading.model
    longest = max((len(items) for items in lists), default=1)
    read, nodes = longest * model.item_tokens.shape[1], longest * model.trie.n_levels
    lengths = [len(prompt) + reading.soft_tokens + read for prompt in prompts]
    for rows in by_length(lengths, model.footprint, nodes, model.trie.n_levels, budget, reading.row_bytes):
        some = [requests[row] for row in rows]
        placed, condition = reading.conditioned([prompts[row] for row in rows], some)
        excluded, allowed = [request.exclude for request in some], [request.allow for request in some]
        values = model.list_log_probs(placed, [lists[row] for row in rows], condition, excluded, allowed)
        result[rows] = values.double().cpu().numpy()
    return result


def expected_hit_rate(
    reading: Reading, requests: Sequence[Request], targets: np.ndarray, n: int = 30
) -> float:
    """Mean of 1 − (1 − p)^n over requests: what n i.i.d. draws would hit, without drawing."""
    return float(_hit_rates(reading, requests, targets, n).mean())


def shared_hit_rate(reading: Reading, requests: Sequence[Request], targets: np.ndarray, n: int = 30) -> float:
    """`expected_hit_rate`, of which each process of a training computes its share;
    all of them must call it.
    """
    mine = distributed.share(len(requests))
    return _shared_mean(_hit_rates(reading, requests[mine], targets[mine], n))


def log_likelihood(reading: Reading, requests: Sequence[Request], targets: np.ndarray) -> float:
    """Mean log p(target) in nats, in the whole catalogue: what training minimises the negative of."""
    return float(log_probs_of(reading, requests, targets, among_available=False).mean())


def shared_log_likelihood(reading: Reading, requests: Sequence[Request], targets: np.ndarray) -> float:
    """`log_likelihood`, of which each process of a training computes its share;
    all of them must call it.
    """
    mine = distributed.share(len(requests))
    return _shared_mean(log_probs_of(reading, requests[mine], targets[mine], among_available=False)[:, 0])


def _shared_mean(values: np.ndarray) -> float:
    return float(distributed.mean(torch.tensor(values.sum()), len(values)))


def _hit_rates(reading: Reading, requests: Sequence[Request], targets: np.ndarray, n: int) -> np.ndarray:
    values = log_probs_of(reading, requests, targets)[:, 0]
    return -np.expm1(n * np.log1p(-np.exp(np.minimum(values, -1e-12))))
