"""Exact scoring: the log-probability of given items for many requests, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from llm.batching import BUDGET, by_length
from llm.model import SidModel
from llm.prompts import PromptBuilder
from recsys.recommender import Request
from semantic_ids.constraints import Constraints
from semantic_ids.trie import Trie


def constraints_of(trie: Trie, requests: Sequence[Request]) -> Constraints:
    """What each request may get, for sampler and scorer alike."""
    return trie.constraints([r.exclude for r in requests], [r.allow for r in requests])


@torch.no_grad()
def log_probs(
    model: SidModel,
    prompts: Sequence[Sequence[int]],
    items: np.ndarray,
    prefix: torch.Tensor | None = None,
    temperatures: Sequence[float] = (1.0,),
    requests: Sequence[Request] | None = None,
    budget: int = BUDGET,
) -> np.ndarray:
    """log p [R, G] (float64) of `items` [R] after `prompts` at each of G temperatures, from one forward pass.

    −inf where an item is not available to its request in `requests`. `prefix` is [R, m, h]. `budget` (bytes) bounds what a batch takes.
    """
    result = np.empty((len(prompts), len(temperatures)))
    levels = model.trie.n_levels
    for rows in by_length(prompts, model.footprint, levels, levels, budget):
        constraints = (
            None if requests is None else constraints_of(model.trie, [requests[row] for row in rows])
        )
        soft = None if prefix is None else prefix[torch.from_numpy(rows)]
        some = np.asarray(items, dtype=np.int64)[rows]
        states = model.item_states([prompts[row] for row in rows], some, soft)
        paths, own = torch.from_numpy(some).to(model.device), torch.arange(len(rows), device=model.device)
        for column, temperature in enumerate(temperatures):
            value = model.path_log_probs(states, paths, temperature, constraints, own)
            result[rows, column] = value.double().cpu().numpy()
    return result


def expected_hit_rate(
    model: SidModel,
    builder: PromptBuilder,
    requests: Sequence[Request],
    targets: np.ndarray,
    prefix: nn.Module | None = None,
    vectors: torch.Tensor | None = None,
    profile: bool = False,
    n: int = 30,
) -> float:
    """Mean of 1 − (1 − p)^n over requests: what n i.i.d. draws would hit, without drawing.

    `prefix(vectors)` [R, m, h] is put in front when given.
    """
    with torch.no_grad():
        soft = None if prefix is None else prefix(vectors)
    prompts = [builder.prompt(request, profile, 0 if soft is None else soft.shape[1]) for request in requests]
    values = log_probs(model, prompts, targets, soft, requests=requests)[:, 0]
    return float(-np.expm1(n * np.log1p(-np.exp(np.minimum(values, -1e-12)))).mean())
