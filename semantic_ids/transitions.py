"""A count model of what follows what, in codes: how much semantic IDs alone say about the next item.

Every consecutive pair (item a, next item b) of a user is counted, once a level and once a prefix of a. With
b's path through the trie, u₀ (the root) … u_L (b itself), and a's prefixes s₁ ⊃ … ⊃ s_L (a itself),

    p(b | a)      = Π_l p_L(u_{l+1} | u_l, a)
    p_d(c | u, a) = (n(s_d, c) + μ · p_{d−1}(c | u, a)) / (n(s_d, u) + μ)   d = 1 … L, a μ a level and depth d
    p_0(c | u)    = (n(c) + leaves(c)) / (n(u) + leaves(u))

n(s, x) counts pairs from an item under s to an item under node x. So the previous item backs off to its
codes, one level at a time, and they to no context at all: Dirichlet priors (MacKay & Peto 1995, "A
hierarchical Dirichlet language model") inside the trie. Each μ is the one of `CONCENTRATIONS` under which the
last pair of each user is likeliest when the others are counted (∞: this depth says nothing here); then all
are counted. Estimates from the counts themselves (Witten–Bell, absolute discounting) trusted them too much on
ml-latest-small: by them IDs fell below popularity (−.95 and −.59 nats, now +.32).

p_0 telescopes over the levels to (n(b) + 1) / (n + N): popularity, the same for every table. So whatever a
table gains over it is a matter of what its codes share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, VALIDATION

CONCENTRATIONS = (*(4.0**power for power in range(8)), np.inf)  # μ, in pairs


def next_items(dataset: Dataset, role: int) -> tuple[np.ndarray, np.ndarray]:
    """(previous item, item) [P, 2] of the events of `role` that have a history, and their users [P],
    ascending.

    The previous item is the last of the events strictly earlier; of FIT events it has to be a FIT event too.
    """
    events = dataset.events(role)
    events = events[dataset.history_end[events] > dataset.offsets[dataset.users[events]]]
    before = dataset.history_end[events] - 1
    if role == FIT:
        events, before = events[dataset.roles[before] == FIT], before[dataset.roles[before] == FIT]
    return np.stack([dataset.items[before], dataset.items[events]], axis=1), dataset.users[events]


def transition_log_probs(
    codes: np.ndarray, pairs: np.ndarray, asked: np.ndarray, concentrations: np.ndarray
) -> np.ndarray:
    """log p(b | a) and log p_0(b) in nats [R, 2], for the pairs (a, b) of `asked` [R, 2],
    counted on `pairs` [P, 2].

    `codes` [N, L] are distinct rows; `concentrations` [L, L] is μ by level and depth of context. Exact inside
    the trie: over all b the probabilities sum to 1.
    """
    log_p = np.zeros((len(asked), 2))
    for step, chosen in zip(_steps(codes, pairs, asked), concentrations, strict=True):
        p = step.popularity
        log_p[:, 1] += np.log(p)
        for context, concentration in zip(step.contexts, chosen, strict=True):
            p = context.interpolated(p, concentration)
        log_p[:, 0] += np.log(p)
    return log_p


def fitted_concentrations(codes: np.ndarray, pairs: np.ndarray, users: np.ndarray) -> np.ndarray:
    """μ [L, L] by level and depth of context, chosen level by level and from the shortest context to the
    longest.

    `users` [P], ascending, whose pairs they are: the last of each user's is left out and told from the
    others.
    """
    last = np.append(users[1:] != users[:-1], True)
    chosen = np.full((codes.shape[1], codes.shape[1]), np.inf)
    for level, step in enumerate(_steps(codes, pairs[~last], pairs[last])):
        p = step.popularity
        for depth, context in enumerate(step.contexts):
            found = [context.interpolated(p, concentration) for concentration in CONCENTRATIONS]
            best = int(np.argmax([np.log(one).mean() for one in found]))
            chosen[level, depth], p = CONCENTRATIONS[best], found[best]
    return chosen


def transition_scores(codes: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """How well the count model of FIT events tells the targets of VALIDATION events,
    means over instances with a history.

    `transition_nats`: mean of log p(b | a) − log p_0(b), nats an item over popularity. What is told without
    codes that mean something, by the items' own pairs, is the score of shuffled codes: −.04 on
    ml-latest-small, .13 on Amazon Beauty.
    `transition_hit_rate@30`: mean of 1 − (1 − p(b | a))³⁰, the expected hit-rate of 30 draws; like the
    generator's, but nothing is excluded. Nothing of the test is read. {} where there is no such pair on
    either side.
    """
    (pairs, users), (asked, _) = next_items(dataset, FIT), next_items(dataset, VALIDATION)
    if not len(pairs) or not len(asked):
        return {}
    concentrations = fitted_concentrations(codes, pairs, users)
    log_p, popular = transition_log_probs(codes, pairs, asked, concentrations).T
    hit = -np.expm1(30 * np.log1p(-np.exp(np.minimum(log_p, -1e-12))))
    return {"transition_nats": float((log_p - popular).mean()), "transition_hit_rate@30": float(hit.mean())}


@dataclass(frozen=True)
class _Context:
    """For R asked pairs (a, b) at one level and depth d: n(s_d, u) [R] and n(s_d, c) [R]."""

    total: np.ndarray
    count: np.ndarray

    def interpolated(self, lower: np.ndarray, concentration: float) -> np.ndarray:
        """p_d [R] from p_{d−1} `lower` [R]."""
        if np.isinf(concentration):
            return lower
        return (self.count + concentration * lower) / (self.total + concentration)


@dataclass(frozen=True)
class _Step:
    """One level: p_0 [R] of the step that b takes there, and the counts under each prefix of a,
    shortest first.
    """

    popularity: np.ndarray
    contexts: list[_Context]


def _steps(codes: np.ndarray, pairs: np.ndarray, asked: np.ndarray) -> Iterator[_Step]:
    """The L steps for `asked` [R, 2], counted on `pairs` [P, 2]."""
    nodes = _nodes(codes)
    (a, b), (asked_a, asked_b) = pairs.T, asked.T
    for parent, child in pairwise(nodes):
        contexts = [
            _Context(
                _counted(_key(prefix[a], parent[b]), _key(prefix[asked_a], parent[asked_b])),
                _counted(_key(prefix[a], child[b]), _key(prefix[asked_a], child[asked_b])),
            )
            for prefix in nodes[1:]
        ]
        yield _Step(_mass(child, b)[child[asked_b]] / _mass(parent, b)[parent[asked_b]], contexts)


def _nodes(codes: np.ndarray) -> list[np.ndarray]:
    """The trie's node [N] that each item passes at each depth:
    0 at the root, numbered from 0 at every depth.
    """
    depths = [np.zeros(len(codes), dtype=np.int64)]
    for level in codes.T:
        key = depths[-1] * (int(level.max()) + 1) + level
        depths.append(np.unique(key, return_inverse=True)[1])
    assert depths[-1].max() + 1 == len(codes), "two items share their codes"
    return depths


def _mass(node: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """n(x) + leaves(x) of every node x of one depth."""
    leaves = np.bincount(node)
    return np.bincount(node[targets], minlength=len(leaves)) + leaves


def _counted(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How often each of `wanted` [R] is among `keys` [P]."""
    keys = np.sort(keys)
    return np.searchsorted(keys, wanted, side="right") - np.searchsorted(keys, wanted, side="left")


def _key(context: np.ndarray, node: np.ndarray) -> np.ndarray:
    """One integer for two; node numbers are below the number of items, which is below 2³¹."""
    return context * np.int64(1 << 31) + node
