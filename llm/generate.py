"""Drawing items inside the trie: i.i.d. sampling, sampling without replacement, beam search. All are exact.

A prompt is read once. Then, level by level, only the *distinct* prefixes that some draw has reached are forwarded (and
only those that no earlier call has forwarded), all requests at once, with a tree attention mask over the shared
key-value cache (a node sees its prompt, its ancestors and itself), and a node with a single leaf below it forwards
nothing. Exclusions and allow-lists are inside the constraint, node by node.

Random numbers are derived from (seed, user, request id, time), never from a batch. Logits may differ in the last bits
with the shape of a batch (about 1e-6 relative), so a draw can differ between batchings only where a uniform number
falls that near to a boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.batching import KEPT_LEVELS
from llm.conditions import Condition
from llm.model import SidModel
from llm.ragged import Layout, Memory
from recsys.recommender import Request
from recsys.seeds import rng
from semantic_ids.constraints import Constraints
from semantic_ids.drawing import draw_children


@dataclass
class Nodes:
    """P distinct nodes of one depth, ordered by request: their request `row`, trie `node`, and cache slots so far."""

    row: torch.Tensor  # [P]
    node: torch.Tensor  # [P]
    slots: torch.Tensor  # [P, depth] cache columns of the ancestors and (once forwarded) of the node itself


@dataclass
class Known:
    """Nodes of one depth that were forwarded already: sorted keys [K] (row · nodes + node), cache columns, logits."""

    keys: torch.Tensor
    slots: torch.Tensor
    logits: torch.Tensor  # [K, size]

    def find(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each of `keys` is, and whether it is there."""
        at = torch.searchsorted(self.keys, keys).clamp(max=max(len(self.keys) - 1, 0))
        there = self.keys[at] == keys if len(self.keys) else torch.zeros_like(keys, dtype=torch.bool)
        return at, there

    def with_more(self, keys: torch.Tensor, slots: torch.Tensor, logits: torch.Tensor) -> Known:
        keys = torch.cat([self.keys, keys])
        order = torch.argsort(keys)
        return Known(
            keys[order], torch.cat([self.slots, slots])[order], torch.cat([self.logits, logits])[order]
        )


class PromptSession:
    """B prompts read once, ready to be drawn from any number of times, at any temperature.

    What was forwarded stays known: a node that i.i.d. draws, draws without replacement, a beam and a scored item have
    in common is forwarded once.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: SidModel,
        prompts: Sequence[Sequence[int]],
        condition: Condition,
        constraints: Constraints,
    ):
        self.model, self.trie, self.constraints = model, model.trie, constraints
        self.condition = condition  # its updates hold for the nodes as for the prompts
        packed = model.pack(prompts)
        layout = packed.layout
        self.n_rows, self.width, self.lengths = layout.n_rows, layout.width, layout.lengths
        self.memory = Memory()
        self.root_logits = model.rows.logits(model.hidden(packed, condition, layout.ends - 1, self.memory), 0)
        columns = torch.arange(self.width, device=model.device)
        self.real = columns < self.lengths[:, None]  # [B, width] where a prompt has a token
        self.alive = ~constraints.excludes_everything()
        self.nodes = 0  # a level that memory was planned for, where it was
        self.forget()

    def forget(self) -> None:
        """Drop every node; the prompts stay read."""
        self.memory.rewind(self.width)
        empty = torch.zeros(0, dtype=torch.long, device=self.model.device)
        self.known = [Known(empty, empty, self.root_logits.new_zeros(0, size)) for size in self.trie.sizes]

    def make_room(self, nodes: int) -> None:
        """Drop the nodes known so far where they take more than `KEPT_LEVELS` times what `nodes` a level will."""
        if self.memory.used - self.width > KEPT_LEVELS * nodes:
            self.forget()

    def root(self) -> Nodes:
        """The root of every request that has an item left."""
        rows = torch.nonzero(self.alive)[:, 0]
        return Nodes(rows, torch.zeros_like(rows), rows.new_zeros(len(rows), 0))

    @torch.no_grad()
    def logits(self, depth: int, nodes: Nodes) -> torch.Tensor:
        """Logits [P, sizes[depth]] at distinct nodes; forwards those that need it, and fills their slots."""
        if depth == 0:
            return self.root_logits[nodes.row]
        leaves = self.trie.leaf_start[depth]
        branching = leaves[nodes.node + 1] - leaves[nodes.node] > 1
        keys = nodes.row * self.trie.n_nodes[depth] + nodes.node
        new = torch.nonzero(branching & ~self.known[depth].find(keys)[1])[:, 0]
        if len(new):
            hidden, slots = self._forward(depth, nodes, new)
            logits = self.model.rows.logits(hidden, depth)
            self.known[depth] = self.known[depth].with_more(keys[new], slots, logits)
        known, there = self.known[depth], branching
        # the others have one item below them: whatever their logits, they lead there
        result = self.root_logits.new_zeros(len(keys), self.trie.sizes[depth])
        slot = torch.full_like(keys, -1)
        if there.any():
            at = known.find(keys[there])[0]
            result[there], slot[there] = known.logits[at], known.slots[at]
        nodes.slots = torch.cat([nodes.slots, slot[:, None]], 1)
        return result

    def _forward(self, depth: int, nodes: Nodes, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward nodes[which] in one call: their hidden states [Q, h] and the cache columns they took [Q]."""
        device = self.model.device
        row, node, ancestors = nodes.row[which], nodes.node[which], nodes.slots[which]
        layout = Layout(torch.bincount(row, minlength=self.n_rows), device)
        past = self.memory.used
        sees = torch.zeros(self.n_rows, layout.width, past + layout.width, dtype=torch.bool, device=device)
        sees[:, :, : self.width] = self.real[:, None]
        sees[row[:, None], layout.place[:, None], ancestors] = True
        own = torch.arange(layout.width, device=device)
        sees[:, own, past + own] = True
        code = self.trie.code[depth - 1][node]
        tokens = self.model.text_size + int(self.model.rows.offsets[depth - 1]) + code
        positions = self.lengths[row] + depth - 1
        hidden = self.model.node_hidden(tokens, positions, layout, self.memory, sees, self.condition)
        return hidden, past + layout.place


def draw(
    session: PromptSession, requests: Sequence[Request], n: int, seed: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """`n` i.i.d. draws a request: items [R, n] and log-probabilities [R, n]; −1 and −inf where nothing is allowed.

    Draw d of a request uses row d of its own uniform numbers, so the first draws do not depend on `n`.
    """
    trie, device = session.trie, session.model.device
    uniforms = np.stack(
        [_generator(seed, request, "draw").random((n, trie.n_levels)) for request in requests]
    )
    uniform = torch.from_numpy(uniforms).to(device)[session.alive].reshape(-1, trie.n_levels)
    session.make_room(n)
    current = session.root()
    rows = current.row.repeat_interleave(n)
    member = torch.arange(len(current.row), device=device).repeat_interleave(n)  # a draw's place in `current`
    node, total = torch.zeros_like(rows), torch.zeros(len(rows), dtype=torch.float64, device=device)
    for depth in range(trie.n_levels if len(rows) else 0):
        logits = session.logits(depth, current)
        node, value = draw_children(
            trie, depth, current.node, logits, member, uniform[:, depth],
            temperature, session.constraints, current.row,
        )  # fmt: skip
        total += value
        key, inverse = torch.unique(rows * trie.n_nodes[depth + 1] + node, return_inverse=True)
        parent = torch.zeros_like(key).scatter_(0, inverse, member)
        current = Nodes(current.row[parent], key % trie.n_nodes[depth + 1], current.slots[parent])
        member = inverse
    items = torch.full((session.n_rows, n), -1, device=device)
    values = torch.full((session.n_rows, n), -torch.inf, dtype=torch.float64, device=device)
    items[session.alive] = trie.leaf_item[node].reshape(-1, n)
    values[session.alive] = total.reshape(-1, n)
    return items.cpu().numpy(), values.cpu().numpy()


def distinct(
    session: PromptSession, requests: Sequence[Request], n: int, seed: int, temperature: float = 1.0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`n` items a request without replacement, in draw order, with their log-probabilities.

    Gumbel top-k over the leaves, top-down (stochastic beam search, Kool et al. 2019, arXiv 1903.06059, Alg. 1): a
    node carries the largest perturbed log-probability below it; children are drawn conditioned on that maximum.
    """

    def noise(row: int, depth: int, shape: tuple[int, int]) -> np.ndarray:
        uniform = _generator(seed, requests[row], f"gumbel {depth}").random(shape)
        return -np.log(-np.log(np.maximum(uniform, 1e-300)))

    return _top_k(session, n, temperature, noise)


def beam(session: PromptSession, n: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The best `n` of a beam of `width` nodes a level (≥ n), most likely first, with their log-probabilities."""
    return [(items[:n], scores[:n]) for items, scores in _top_k(session, max(width, n), 1.0, None)]


@torch.no_grad()
def _top_k(session: PromptSession, k: int, temperature: float, noise) -> list[tuple[np.ndarray, np.ndarray]]:
    trie, device = session.trie, session.model.device
    session.make_room(k)
    current = session.root()
    phi = torch.zeros(len(current.row), dtype=torch.float64, device=device)
    perturbed = torch.zeros_like(phi)
    for depth in range(trie.n_levels):
        logits = session.logits(depth, current)
        log_probs, children = trie.child_log_probs(
            depth, current.node, logits, temperature, session.constraints, current.row
        )
        child_phi = phi[:, None] + log_probs.double()
        if noise is None:
            rank = child_phi
        else:
            gumbel = torch.from_numpy(
                _noise_rows(noise, current.row.cpu().numpy(), depth, trie.max_children[depth])
            )
            rank = _conditioned(child_phi, gumbel.to(device)[:, : child_phi.shape[1]], perturbed)
        parent, column = torch.nonzero(child_phi.isfinite(), as_tuple=True)
        value, row = rank[parent, column], current.row[parent]
        order = _best_of_each_row(row, value, session.n_rows, k)
        order = order[torch.argsort(row[order] * trie.n_nodes[depth + 1] + children[parent, column][order])]
        parent, column = parent[order], column[order]
        phi, perturbed = child_phi[parent, column], rank[parent, column]
        current = Nodes(current.row[parent], children[parent, column], current.slots[parent])
    answers = []
    items, rows = trie.leaf_item[current.node].cpu().numpy(), current.row.cpu().numpy()
    order_by, scores = perturbed.cpu().numpy(), phi.cpu().numpy()
    for request in range(session.n_rows):
        mine = np.flatnonzero(rows == request)
        best_first = mine[np.argsort(-order_by[mine], kind="stable")]
        answers.append((items[best_first], scores[best_first]))
    return answers


@torch.no_grad()
def score(session: PromptSession, items: np.ndarray, temperatures: Sequence[float] = (1.0,)) -> np.ndarray:
    """log p [R, G] (float64) of one item a request at G temperatures; −inf where it is not available.

    What `llm.scoring.log_probs` gives, for prompts that are read already.
    """
    trie = session.trie
    path = trie.path(torch.from_numpy(np.asarray(items, dtype=np.int64)).to(session.model.device))
    current = session.root()
    path = path[current.row]
    total = torch.zeros(len(path), len(temperatures), dtype=torch.float64, device=path.device)
    for depth in range(trie.n_levels):
        logits = session.logits(depth, current)
        column = (path[:, depth + 1] - trie.child_start[depth][path[:, depth]])[:, None]
        for index, temperature in enumerate(temperatures):
            log_probs, _ = trie.child_log_probs(
                depth, current.node, logits, temperature, session.constraints, current.row
            )
            total[:, index] += log_probs.gather(1, column)[:, 0]
        current = Nodes(current.row, path[:, depth + 1], current.slots)
    result = torch.full(
        (session.n_rows, len(temperatures)), -torch.inf, dtype=torch.float64, device=path.device
    )
    result[current.row] = total
    return result.cpu().numpy()


def _noise_rows(noise, rows: np.ndarray, depth: int, width: int) -> np.ndarray:
    """Gumbel numbers [P, width]; a request's numbers depend on its own nodes alone, in node order."""
    result = np.empty((len(rows), width))
    for row in np.unique(rows):
        mine = np.flatnonzero(rows == row)
        result[mine] = noise(int(row), depth, (len(mine), width))
    return result


def _conditioned(phi: torch.Tensor, gumbel: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
    """Gumbel(phi) for each child [P, W], conditioned on their maximum being `maximum` [P] (Kool et al., appendix B)."""
    value = phi + gumbel
    top = value.max(1, keepdim=True).values
    target = maximum[:, None]
    v = target - value + torch.log1p(-torch.exp((value - top).clamp(max=0)))
    result = target - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs()))
    result = torch.where(
        value == top, target.expand_as(result), result
    )  # v = −inf there: exactly the maximum
    return torch.where(phi.isfinite(), result, torch.full_like(result, -torch.inf))


def _best_of_each_row(row: torch.Tensor, value: torch.Tensor, n_rows: int, k: int) -> torch.Tensor:
    """Indices of the k largest values of each row (all of them where there are fewer)."""
    by_value = torch.argsort(value, descending=True, stable=True)
    order = by_value[torch.argsort(row[by_value], stable=True)]
    starts = torch.searchsorted(row[order], torch.arange(n_rows, device=row.device))
    place = torch.arange(len(order), device=row.device) - starts[row[order]]
    return order[place < k]


def _generator(seed: int, request: Request, what: str) -> np.random.Generator:
    user = -1 if request.user is None else request.user
    return rng(seed, what, user, request.request_id, request.time)
