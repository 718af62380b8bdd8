"""TAP-PER: a user-state prefix, a query-aware record prefix with temporal biases, and a bridge LoRA.

Stage 2 of the paper:

    s_j = MLP(z_q ‖ z_j ‖ z_q − z_j ‖ z_q ⊙ z_j)                           (eq. 4)
    s̃_j = s_j − λ_t log(1 + Δt_j) − λ_o log(1 + Δπ_j),  α = softmax(s̃)      (eq. 5, 6)
    P_q = MLP(Σ_j α_j z_j),  P = P_u + P_q                                  (eq. 7, 8)

The paper leaves open, and here: Δt is in days, Δπ counts records back from the query (the latest is 1), λ
start at `decay_start` and are free to change sign; both MLPs have bottlenecks; z_q is the mean of the shown
items' record vectors and, where there is one, the query's mean token embedding. P_u starts at zero beside
P_q, whose output bias starts as a constant prefix. In training P_u is dropped for a random part of the
instances, so that P_q alone is a trained mode: that is what a new user gets. Feedback that comes later moves
rows of P_u alone (`llm.methods.user_states`): they lie in `TapPer.later`, and the trained table stays as it
is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from llm.backbone.conditions import Condition
from llm.methods.base import TrainedMethod
from llm.methods.lora import ATTENTION, SharedLora
from llm.methods.stage2 import World, batch_rows
from llm.methods.user_states import KeepsUserStates, OnlineConfig, absorb
from llm.prompts.contexts import RecordSearch
from llm.prompts.prefixes import seeded_linear
from llm.prompts.reading import Personalizer, Reading
from llm.stage1.records import mean_embedding
from recsys.recommender import Request
from recsys.seeds import torch_generator

DAY = 86_400.0  # seconds


@dataclass
class Histories:
    """R histories laid one after the other: `items`, and gaps to the query in days and in records [T];
    `lengths` [R].
    """

    items: Tensor
    days: Tensor
    order: Tensor
    lengths: Tensor

    @classmethod
    def of(
        cls,
        requests: Sequence[Request],
        search: RecordSearch | None = None,
        k: int | None = None,
        recent: int = 5,
        until: np.ndarray | None = None,
    ) -> Histories:
        """The whole history of each request, strictly before its time;
        with k only the records that BM25 finds best.

        `until` [U] (unix seconds): a store of records that was last filled then holds only user u's records
        before `until[u]`, and counts their order from its own end. Raises `ValueError` for a history that
        reaches its own moment.
        """
        ends = [_stored(request, until) for request in requests]
        kept = [np.arange(end) for end in ends]
        if k is not None and search is not None:
            asked = [search.query(request, request.history[-recent:]) for request in requests]
            kept = [
                np.sort(search.best(query, request.history[:end], k))
                for query, request, end in zip(asked, requests, ends, strict=True)
            ]
        rows = list(zip(requests, kept, strict=True))
        items = [request.history[at] for request, at in rows]
        gaps = [request.time - request.history_times[at] for request, at in rows]
        order = [end - at for end, at in zip(ends, kept, strict=True)]
        seconds = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *gaps]))
        if len(seconds) and int(seconds.min()) <= 0:
            raise ValueError("a history reaches its own moment: a record's gap must be above 0 seconds")
        return cls(
            torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *items])),
            seconds.float() / DAY,
            torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *order])).float(),
            torch.tensor([len(at) for at in kept]),
        )


def _stored(request: Request, until: np.ndarray | None) -> int:
    """How many records of the request's history, the oldest ones, were there at the user's `until`."""
    if until is None or request.user is None or not 0 <= request.user < len(until):
        return len(request.history)
    return int(np.searchsorted(request.history_times, until[request.user], side="left"))


class RecordPrefix(nn.Module):
    """P_q (eq. 4–7): z_q [R, h] and histories of any lengths -> [R, L·h].
    An empty history gives the MLP of zeros.
    """

    def __init__(self, hidden: int, out: int, norm: float, config: TapPerConfig, seed: int):
        super().__init__()
        generator = torch_generator(seed, "record prefix")
        self.first = seeded_linear(4 * hidden, config.scorer_hidden, generator)
        self.second = seeded_linear(config.scorer_hidden, 1, generator)
        self.inner = seeded_linear(hidden, config.projection_hidden, generator)
        self.outer = seeded_linear(config.projection_hidden, out, generator)
        # soft tokens start at about the norm of a token embedding: a constant, and a part of the records
        with torch.no_grad():
            scale = norm * hidden**-0.5
            self.outer.weight.mul_(scale)
            self.outer.bias.normal_(std=scale, generator=generator)
        start = torch.tensor(config.decay_start)
        self.time_decay = nn.Parameter(start.clone()) if config.time_decay else None
        self.order_decay = nn.Parameter(start.clone()) if config.order_decay else None

    def attention(self, query: Tensor, z: Tensor, histories: Histories, biased: bool = True) -> Tensor:
        """α [T] for the records z [T, h]; sums to one within each history that is not empty.

        `biased=False`: as if λ were 0.

        Eq. 4's first layer in parts: W [q; j; q−j; q⊙j] = (W₁ + W₃) q + (W₂ − W₃) j + W₄ (q⊙j), the first
        once a request.
        """
        row = torch.repeat_interleave(torch.arange(len(query), device=z.device), histories.lengths)
        w1, w2, w3, w4 = self.first.weight.chunk(4, dim=1)
        of_query = nn.functional.linear(query, w1 + w3, self.first.bias)
        of_record = nn.functional.linear(z, w2 - w3) + nn.functional.linear(
            query.index_select(0, row) * z, w4
        )
        hidden = nn.functional.embedding(row, of_query) + of_record
        scores = self.second(nn.functional.gelu(hidden))[:, 0]
        if biased and self.time_decay is not None:
            scores = scores - self.time_decay * torch.log1p(histories.days)
        if biased and self.order_decay is not None:
            scores = scores - self.order_decay * torch.log1p(histories.order)
        return segment_softmax(scores, row, histories.lengths)

    def forward(self, query: Tensor, z: Tensor, histories: Histories) -> Tensor:
        weights = self.attention(query, z, histories)
        starts = torch.cumsum(histories.lengths, 0) - histories.lengths
        taken = torch.arange(len(z), device=z.device)
        summed = nn.functional.embedding_bag(taken, z, starts, mode="sum", per_sample_weights=weights)
        return self.outer(nn.functional.gelu(self.inner(summed)))


def segment_softmax(scores: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """Softmax [T] within each of the segments of `lengths` [R]; `row` [T] says whose a score is."""
    if not len(scores):
        return scores
    top = torch.segment_reduce(scores.detach(), "max", lengths=lengths, initial=-torch.inf)
    raised = torch.exp(scores - top.index_select(0, row))
    total = torch.segment_reduce(raised, "sum", lengths=lengths)
    return raised / nn.functional.embedding(row, total[:, None])[:, 0]


class TapPer(KeepsUserStates):
    """P = P_u + P_q in front of the prompt, and the bridge in every layer; any part may be left out."""

    def __init__(self, config: TapPerConfig, world: World, seed: int, users: np.ndarray | None = None):
        """`users` (ascending): who gets a row, where that is not everybody; None: nobody yet."""
        super().__init__()
        self.config, self.seed = config, seed
        self.met, self.later = world.trained_users, {}
        # P_q's store of records was last filled then; see `Histories.of`
        self.until: np.ndarray | None = None
        model = world.model
        hidden, norm = model.hidden_size, world.embedding_norm
        self.model = _Frozen(model)
        # record and query vectors are divided by it: components of about 1 for the MLPs
        self.scale = norm * hidden**-0.5
        self.search = world.search if config.prefilter else None
        self.recent = world.builder.config.recent_items
        self.records = world.records if config.records else None
        self.encode = world.builder.encode
        self.query_tokens = world.builder.config.query_tokens
        out = config.length * hidden
        self.soft_tokens = config.length if config.records or config.user_state else 0
        self.p_q = RecordPrefix(hidden, out, norm, config, seed) if config.records else None
        self.p_u = None
        if config.user_state:
            whose = None if config.stored == "all" else np.zeros(0, np.int64) if users is None else users
            self.keep_rows(out, world.dataset.n_users, whose)
        # all-zero soft tokens have no direction: start as one constant prefix
        if self.p_u is not None and self.p_q is None:
            constant = torch.randn(out, generator=torch_generator(seed, "p_u")) * norm * hidden**-0.5
            with torch.no_grad():
                self.p_u.copy_(constant.expand_as(self.p_u))
        self.per_user_parameters = 0 if self.p_u is None else out
        self.user_rows = () if self.p_u is None else ("p_u",)
        layers = model.updates.layers(ATTENTION)
        self.bridge = (
            SharedLora(layers, config.bridge_rank, config.bridge_alpha, seed) if config.bridge else None
        )

    @property
    def starts_at_zero(self) -> bool:
        return self.p_q is not None  # which is how P_q alone is trained

    @property
    def shared_parameters(self) -> int:
        return super().shared_parameters - (0 if self.p_u is None else self.p_u.numel())

    def condition(self, requests: Sequence[Request]) -> Condition:
        return self.conditioned_on(requests, None if self.p_u is None else self.user_states(requests))

    def conditioned_on(self, requests: Sequence[Request], states: Tensor | None) -> Condition:
        """The condition with `states` [R, L·h] for P_u; in training beside P_q they are dropped at random."""
        updates = self.bridge.updates() if self.bridge is not None else {}
        if not self.soft_tokens:
            return Condition(updates=updates)
        parts = []
        if self.p_q is not None:
            parts.append(self.p_q(*self.read(requests)))
        if states is not None:
            parts.append(self._dropped(states))
        prefix = torch.stack(parts).sum(0).view(len(requests), self.config.length, -1)
        known = None if self.p_q is not None else self.have_rows(requests)
        return Condition(prefix, known, updates)

    def read(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor, Histories]:
        """z_q [R, h], the record vectors [T, h] of all histories, and the histories."""
        assert self.records is not None
        histories = Histories.of(requests, self.search, self.config.prefilter, self.recent, self.until)
        device = self.model.it.device
        z = self.records.index_select(0, histories.items).to(device) / self.scale
        shown = [request.history[-self.recent :] for request in requests]
        lengths = torch.tensor([len(items) for items in shown])
        items = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *shown]))
        summed = torch.segment_reduce(self.records.index_select(0, items), "sum", lengths=lengths, axis=0)
        asked = [" ".join((request.query or "").split()) for request in requests]
        has = torch.tensor([bool(text) for text in asked])
        if has.any():
            words = [self.encode(text)[: self.query_tokens] if text else [] for text in asked]
            summed = summed + mean_embedding(self.model.it, words).cpu()
        count = (lengths + has).clamp(min=1)[:, None]
        histories = Histories(*(part.to(device) for part in vars(histories).values()))
        return (summed / count / self.scale).to(device), z, histories

    def _dropped(self, states: Tensor) -> Tensor:
        """In training beside P_q some of the `states` [R, L·h] become zeros, others by the step.

        Drawn for the step's batch from its start, so that a process with a share of it drops what one process
        would.
        """
        if not (self.training and self.p_q is not None and self.config.user_drop):
            return states
        generator = torch_generator(self.seed, "drop", self.step)
        drawn = torch.rand(self.first_row + len(states), generator=generator)[self.first_row :]
        kept = drawn >= self.config.user_drop
        return states * kept.to(states.device)[:, None]


class _Frozen:
    """Holds a module without making it a part of another: its weights are not ours to train or save."""

    def __init__(self, it):
        self.it = it


class TapPerConfig(TrainedMethod):
    """Ablations are switches: bridge, records (P_q), user_state (P_u), time_decay, order_decay, prefilter,
    length.
    """

    method: Literal["tap_per"] = "tap_per"
    reads = "recent items, history before t (P_q); P_u and the bridge also train on earlier events"
    stores = "P_u: L · h numbers"
    trains = "P_u, P_q's scorer and projection, λ, a bridge LoRA"
    use = "users return often, and a little training per user is affordable; P_q alone serves newcomers"
    length: int = Field(8, ge=1)  # L: soft tokens
    records: bool = True  # P_q
    user_state: bool = True  # P_u
    bridge: bool = True
    bridge_rank: int = Field(4, ge=1)
    bridge_alpha: float = 8.0
    scorer_hidden: int = Field(64, ge=1)
    projection_hidden: int = Field(64, ge=1)
    time_decay: bool = True  # λ_t is learned; false: λ_t = 0
    order_decay: bool = True  # λ_o likewise
    decay_start: float = 0.1  # λ at the first step
    prefilter: int | None = Field(None, ge=1)  # P_q reads only the k records that BM25 finds best; None: all
    user_drop: float = Field(0.25, ge=0, lt=1)  # share of training instances that do without P_u
    # whose rows P_u has, in memory, optimizer and file. trained: users of an instance of one of the `steps` alone, so that a
    # million users cost what is trained; a row is the one that "all" gives (but for the last bits where the gradient is clipped)
    stored: Literal["all", "trained"] = "all"

    @model_validator(mode="after")
    def _makes_sense(self) -> TapPerConfig:
        if not (self.records or self.user_state or self.bridge):
            raise ValueError("tap_per without records, user_state and bridge is No Context; use that row")
        if self.prefilter is not None and not self.records:
            raise ValueError("tap_per.prefilter chooses records for P_q, which records: false leaves out")
        return self

    def new(self, world: World, seed: int) -> Personalizer:
        if self.stored == "all":
            return TapPer(self, world, seed)
        train, steps = world.train, self.steps or world.settings.steps
        batches = (
            batch_rows(len(train), world.settings.batch, step, seed, train.weights) for step in range(steps)
        )
        met = np.unique(np.concatenate([np.zeros(0, np.int64), *batches]))
        return TapPer(self, world, seed, np.unique(world.dataset.users[train.events[met]]))

    def blank(self, world: World, seed: int) -> Personalizer:
        return TapPer(self, world, seed)

    def admit(self, world: World, reading: Reading, events: np.ndarray) -> None:
        """With P_u, a row is trained from the user's events as streamed feedback would be (Online-Emb);
        without, they are read.
        """
        if not self.user_state:
            return super().admit(world, reading, events)
        data, trained = world.dataset, reading.personalizer
        assert isinstance(trained, TapPer)
        events = data.askable(events)
        requests = data.requests(events[-(world.settings.own_events or len(events)) :], data.exclude_seen)
        targets = data.items[events[-len(requests) :]]
        before = dict(trained.later)
        try:
            with tempfile.TemporaryDirectory() as folder:
                absorb("admission", reading, requests, targets, OnlineConfig(), 1e-3, Path(folder))
        finally:
            trained.later = before
