"""Rows of Stage 1 that learn a whole distribution, of the retrievers' product, where no retriever has seen what follows.

    q(i | history) ∝ exp Σ_k w_k s_k(history, i)        SASRec's logits, and faded means of item and text vectors against the items'

A target is one item of many that would have done; what retrievers say of all of them is worth more where events are few (knowledge
distillation, Hinton et al. 2015, arXiv 1503.02531). But a model that has learned from an event ranks that event's item two to three times
as well as a new one: as a teacher of its own training targets it says little more than they do. So rows stand where training ends: behind
the FIT events of a user, whole or their last few, of which neither the retrievers (learned from FIT alone) nor Stage 1 knows what came
next. Nothing of what came next is read. Users by whom Stage 1 is validated are left out; their targets choose w.

The loss is the cross-entropy to q inside the trie: at the root of all its children, and below it at the nodes on the way to items drawn
from q, of all of theirs; its mean over draws is −Σ_i q_i log p_i exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.backbone.sid_model import SidModel
from llm.prompts.builder import PromptBuilder
from llm.prompts.prefixes import UserPrefix
from llm.prompts.reading import Reading
from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT
from recsys.embeddings.embed import load_item_vectors
from recsys.embeddings.retrieval import unit_rows
from recsys.embeddings.sequence_parts import load_user_logits
from recsys.embeddings.user_vectors import HistoryVectors, UserVectors
from recsys.recommender import Request
from recsys.requests import some_of
from recsys.run import Run
from recsys.seeds import rng
from recsys.training import distributed
from recsys.training.rows import rows_of_epoch
from semantic_ids.trie import Trie

HALF_LIVES = (1.0, 3.0, 10.0, None)  # in items, of which the likelihood chooses one for each mean
FITTED = 1000  # targets that choose weights at most
MOST = 1 << 28  # probabilities of a step, rows × items: 2 GiB of cumulated ones


class Teacher:
    """A product of retrievers (users' vectors, items' [N, d]); `fit` gives it weights, one each."""

    def __init__(self, experts: dict[str, tuple[UserVectors, np.ndarray]]):
        """Raises `ValueError` without an expert."""
        if not experts:
            raise ValueError("a teacher needs at least one retriever")
        self.experts, self.weights = experts, dict.fromkeys(experts, 1.0)
        self.items = np.concatenate([items for _, items in experts.values()], 1)  # [N, Σ d]

    def as_dict(self) -> dict[str, Any]:
        """Weights, and half-lives of what fades."""
        fading = {
            name: users.half_life
            for name, (users, _) in self.experts.items()
            if isinstance(users, HistoryVectors)
        }
        return {"weights": self.weights, "half_life_items": fading}

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """Σ_k w_k s_k [R, N]; −∞ for what a request excludes."""
        queries = [
            users.vectors(requests)[0] * self.weights[name] for name, (users, _) in self.experts.items()
        ]
        found = np.concatenate(queries, 1) @ self.items.T
        for row, request in zip(found, requests, strict=True):
            row[request.exclude] = -np.inf
        return found

    def fit(self, requests: Sequence[Request], targets: np.ndarray) -> float:
        """Weights of the highest mean log-likelihood of `targets` [R] (a conditional logit: one maximum), and each faded mean's half-life
        of the highest alone. Returns the nats a target.
        """
        for name, (users, items) in self.experts.items():
            if isinstance(users, HistoryVectors):
                ways = [users.faded(half_life, users.space) for half_life in HALF_LIVES]
                alone = [self._nats({name: (way, items)}, requests, targets)[0] for way in ways]
                self.experts[name] = (ways[int(np.argmin(alone))], items)
        nats, weights = self._nats(self.experts, requests, targets)
        self.weights = dict(zip(self.experts, weights.tolist(), strict=True))
        return nats

    def _nats(
        self,
        experts: dict[str, tuple[UserVectors, np.ndarray]],
        requests: Sequence[Request],
        targets: np.ndarray,
    ) -> tuple[float, np.ndarray]:
        from scipy.optimize import minimize  # an answer does not need it: imported where training is

        of = np.stack(
            [users.vectors(requests)[0] @ items.T for users, items in experts.values()]
        )  # [K, R, N]
        rows, barred = np.arange(len(targets)), np.zeros(of.shape[1:], np.float32)
        for row, request in zip(barred, requests, strict=True):
            row[request.exclude] = -np.inf
        own = of[:, rows, targets].astype(np.float64)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            scores = np.tensordot(weights.astype(np.float32), of, 1)
            scores += barred
            most = scores.max(1, keepdims=True)
            shares = np.exp(np.subtract(scores, most, out=scores), out=scores)
            total = shares.sum(1)
            expected = np.einsum("krn,rn->kr", of, shares) / total
            value = (most[:, 0] + np.log(total) - weights @ own).mean()
            return float(value), (expected - own).mean(1).astype(np.float64)

        found: Any = minimize(loss, np.ones(len(of)), jac=True, method="L-BFGS-B")
        return float(found.fun), np.asarray(found.x)


def teacher_of(run: Run) -> Teacher:
    """The retrievers of a run that have learned from FIT alone. Raises `RunError` where it has none."""
    vectors, experts = load_item_vectors(run), dict[str, tuple[UserVectors, np.ndarray]]()
    sasrec = load_user_logits(run)
    if sasrec is not None:
        experts["sasrec"] = (sasrec, sasrec.items)
    for name in ("collaborative", "text"):
        if name in vectors:
            rows = np.asarray(vectors[name], np.float32)
            rows = unit_rows(rows - rows.mean(0)) if name == "text" else unit_rows(rows)
            experts[name] = (HistoryVectors(rows, None, name), rows)
    if not experts:
        raise RunError(f"{run.path} has no item vectors, which adapt.taught_batch learns from")
    return Teacher(experts)


class TaughtRows:
    """`loss(step)`: the cross-entropy to the teacher over a step's rows, drawn from (seed, step); every other row stands behind the soft
    token of its user's vector where there is a `prefix`, and shows at most `longest` items then.
    """

    def __init__(
        self,
        dataset: Dataset,
        builder: PromptBuilder,
        teacher: Teacher,
        seed: int,
        batch: int,
        draws: int,
        longest: int,
        left_out: np.ndarray,
    ):
        """`builder` shows whole histories; `draws` items a row; users of `left_out` events are not asked about.
        Raises `ValueError` where no history is left, or a step would hold more than `MOST` probabilities.
        """
        self.dataset, self.builder, self.teacher, self.seed = dataset, builder, teacher, seed
        self.batch, self.draws, self.longest = batch, draws, longest
        events = ends_of_training(dataset)
        events = events[~np.isin(dataset.users[events], dataset.users[left_out])]
        if not len(events):
            raise ValueError(
                "adapt.taught_batch: no user has a training history and is not among those by whom Stage 1 is validated; set "
                "taught_batch: 0, or fewer validation_instances"
            )
        if batch * dataset.n_items > MOST:
            raise ValueError(
                f"adapt.taught_batch of {batch:,} rows × {dataset.n_items:,} items are more than {MOST:,} probabilities a step; set fewer"
            )
        self.requests = dataset.requests(events, dataset.exclude_seen)

    def loss(self, model: SidModel, prefix: UserPrefix | None, step: int) -> Tensor:
        """Of this process's share of the rows; differentiable in the model and in φ₀."""
        batches = -(-len(self.requests) // self.batch)
        epoch, part = divmod(step, batches)
        rows = rows_of_epoch(len(self.requests), None, self.seed, "taught rows", epoch)
        rows = rows[part * self.batch : (part + 1) * self.batch]
        generator = rng(self.seed, "taught rows shown", step)
        sizes, short = generator.random(len(rows)), generator.random(len(rows)) < 0.5
        few = np.floor((self.longest + 2.0) ** generator.random(len(rows))).astype(np.int64) - 1
        uniform = generator.random((len(rows), self.draws))
        mine = distributed.share(len(rows))
        whole = [
            last(request, 1 + int(size * len(request.history))) if cut else request
            for request, size, cut in zip(self._asked(rows[mine]), sizes[mine], short[mine], strict=True)
        ]
        wanted = torch.from_numpy(self.teacher.scores(whole)).to(model.device).softmax(1)
        soft = np.arange(len(rows))[mine] % 2 == 1 if prefix is not None else np.zeros(len(whole), bool)
        parts = []
        for places, way in ((np.flatnonzero(~soft), None), (np.flatnonzero(soft), prefix)):
            if not len(places):
                continue
            asked = [whole[place] for place in places]
            shown = (
                asked
                if way is None
                else [
                    last(request, int(count)) for request, count in zip(asked, few[mine][places], strict=True)
                ]
            )
            reading = Reading(model, self.builder, way)
            prompts, condition = reading.conditioned(reading.prompts(shown), asked)
            packed = model.pack(prompts, True)
            states = model.hidden(packed, condition, packed.layout.ends - 1)
            drawn = torch.from_numpy(uniform[mine][places]).to(model.device)
            parts.append(
                cross_entropies(model, states, wanted[torch.from_numpy(places).to(wanted.device)], drawn)
            )
        return torch.cat(parts).mean()

    def _asked(self, rows: np.ndarray) -> list[Request]:
        """Requests at the ends of training. What they may not get again is the history's alone: a request that was made for an event lets
        its item come again, and would so tell of it.
        """
        dataset = self.dataset
        return [
            replace(
                request,
                exclude=dataset.not_again(request.user, request.time, request.history, dataset.exclude_seen),
            )
            for request in some_of(self.requests, rows)
        ]


def ends_of_training(dataset: Dataset) -> np.ndarray:
    """For each user with FIT events, the event behind the last of them [U'], whose history holds all that the retrievers have learned of
    the user (of one moment with that last event it would not: such users have none). What is UNUSED may stand anywhere.
    """
    fit = np.flatnonzero(dataset.roles == FIT)
    users = dataset.users[fit]
    fit = fit[np.append(users[1:] != users[:-1], True)[: len(fit)]]  # each user's last
    events = fit[fit + 1 < dataset.offsets[dataset.users[fit] + 1]] + 1
    return events[dataset.history_end[events] == events]


def last(request: Request, count: int) -> Request:
    """The request as if its last `count` items were all; what it excludes stays."""
    cut = max(0, len(request.history) - count)
    return replace(request, history=request.history[cut:], history_times=request.history_times[cut:])


def cross_entropies(model: SidModel, states: Tensor, wanted: Tensor, drawn: Tensor) -> Tensor:
    """An estimate of −Σ_i q_i log p_i [B] whose mean is it, from states before an item [B, h], q `wanted` [B, N] and uniform numbers
    `drawn` [B, M] that say which items of q the levels below the root are asked on the way to.
    """
    trie, rows = model.trie, torch.arange(len(states), device=states.device)
    mass = wanted.new_zeros(len(wanted), trie.n_items + 1, dtype=torch.float64)
    of_leaves = wanted.index_select(1, trie.leaf_item[torch.arange(trie.n_items, device=states.device)])
    torch.cumsum(of_leaves, 1, dtype=torch.float64, out=mass[:, 1:])
    leaves = (torch.searchsorted(mass, drawn.double() * mass[:, -1:]) - 1).clamp(0, trie.n_items - 1)
    states = states[:, None]
    total = _below(model, 0, states, rows, rows.new_zeros(len(rows), 0), rows * 0, mass)
    rows = rows.repeat_interleave(drawn.shape[1])
    path = trie.path(trie.leaf_item[leaves.reshape(-1)])
    codes = trie.codes(path)
    for level in range(1, trie.n_levels):
        found = _below(model, level, states[rows], rows, codes, path[:, level], mass)
        total = total + found.view(drawn.shape).mean(1)
    return total


def _below(
    model: SidModel, level: int, states: Tensor, rows: Tensor, codes: Tensor, nodes: Tensor, mass: Tensor
) -> Tensor:
    """−Σ_c q(c | node) log p(c | node) [P] over the children of `nodes` [P]; `mass` [B, N + 1] is cumulated over leaves."""
    trie: Trie = model.trie
    log_p, children = trie.child_log_probs(level, nodes, model.head.logits(level, states, codes, nodes))
    live = ~torch.isneginf(log_p)
    children = torch.where(live, children, 0)
    starts, ends = (trie.leaf_start[level + 1][children + step] for step in (0, 1))
    of_child = mass[rows[:, None], ends] - mass[rows[:, None], starts]
    of_child = torch.where(live, of_child, 0.0)
    share = of_child / of_child.sum(1, keepdim=True).clamp(min=1e-300)
    return -(share.float() * torch.where(live, log_p, 0.0)).sum(1)
