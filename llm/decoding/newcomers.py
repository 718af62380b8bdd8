"""Items that came after the training: what a frozen generator that never saw them says of each.

The generator's trie holds the items that it was trained on, and stays as it is: p(item) of those does not move by a bit. An item
that came later has codes (`semantic_ids.new_items`), so the trie knows the node v above it, and it has content. Its weight is

    log w(item | request) = a + λ log p(v | prompt) + Σ_k κ_k cos(u_k, x_k(item)) + log f(item),      λ, κ ≥ 0

f how much oftener than that it was had since it came (`serving.refresh.had`), v at depth `depth`, u_k the mean of the history's
vectors in a content space (faded by a half-life), x_k the item's own. The weights are fitted on trained items that are treated as if they were new (`serving.refresh.calibrate`), and `a` such that newcomers get the
share of answers that such items had. All that is available then weighs

    Z = Σ_trained p(item) + Σ_new w(item)

which is the normaliser of draws and probabilities (`llm.decoding.with_newcomers`): exact, whatever is excluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from llm.backbone.heads import DepthHead
from llm.decoding.nodes import Nodes
from llm.decoding.session import PromptSession
from recsys.embeddings.embed import load_item_vectors
from recsys.embeddings.retrieval import unit_rows
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Request
from recsys.run import Run
from semantic_ids.tokenizer import load_table
from semantic_ids.trie import Trie

NAME = "newcomers.json"  # an artifact of stage adapt, in versions of a run that have newcomers
MOST_NODES = 4096  # of a depth: asking a head about more of them would cost more than the prompt
HALF_LIVES = (None, 5.0)  # of each content space, in items: a feature each


@dataclass(frozen=True)
class Weights:
    """λ of the node, κ of each content feature in their order, and a."""

    node: float
    content: tuple[float, ...]
    offset: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Weights:
        return cls(float(values["node"]), tuple(map(float, values["content"])), float(values["offset"]))


class Content:
    """What items are by themselves: for each space and half-life a feature, cos(u, x)."""

    def __init__(self, spaces: Mapping[str, np.ndarray]):
        """`spaces`: name -> vectors [N, d] of all items, unit rows; zero where an item has none."""
        self.spaces = list(spaces.values())
        self.readers = [
            HistoryVectors(vectors, half_life, "") for vectors in self.spaces for half_life in HALF_LIVES
        ]

    def rows(self, items: np.ndarray) -> list[np.ndarray]:
        """The vectors [K, d] of some items in each space."""
        return [vectors[items] for vectors in self.spaces]

    def features(self, requests: Sequence[Request], rows: Sequence[np.ndarray]) -> np.ndarray:
        """[R, K, F] (float32) of the items whose `rows` they are; zeros where the history says nothing."""
        found = [
            reader.vectors(requests)[0] @ rows[number // len(HALF_LIVES)].T
            for number, reader in enumerate(self.readers)
        ]
        return np.stack(found, 2) if found else np.zeros((len(requests), 0, 0), np.float32)


@dataclass(frozen=True)
class Newcomers:
    """`items` [K] (ascending), the nodes [K] of the trie at `depth` above them, their content, and the weights.

    Items from `first` on are new. One below it is a trained item that was coded anew: it is answered with as a newcomer, no more from its leaf.
    """

    first: int
    n_items: int
    items: np.ndarray
    depth: int
    nodes: np.ndarray
    content: Content
    weights: Weights
    had: np.ndarray  # log f [K]

    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """The items' vectors in each content space."""
        return self.content.rows(self.items)

    @property
    def again(self) -> np.ndarray:
        """Trained items that were coded anew."""
        return self.items[self.items < self.first]

    def log_weights(
        self, session: PromptSession, requests: Sequence[Request], temperature: float = 1.0
    ) -> np.ndarray:
        """log w [B, K] (float64) for the requests of a session; at a temperature t each part is divided by it, as logits are."""
        above = node_log_probs(session, self.depth, temperature).double().cpu().numpy()[:, self.nodes]
        found = self.weights.node * above + (self.weights.offset + self.had) / temperature
        if self.content.readers:
            said = self.content.features(requests, self.rows)
            found += said.astype(np.float64) @ np.array(self.weights.content) / temperature
        return found


def depth_of(trie: Trie, head: Any) -> int:
    """The depth of the nodes that newcomers hang on: the last inner one that a head knows without being read, if it is not too wide."""
    if not isinstance(head, DepthHead):
        return 1
    return max(depth for depth in range(1, trie.n_levels) if depth == 1 or trie.n_nodes[depth] <= MOST_NODES)


@torch.no_grad()
def node_log_probs(session: PromptSession, depth: int, temperature: float = 1.0) -> torch.Tensor:
    """log p [B, nodes of `depth`] after each of the session's prompts, with nothing excluded. What was kept of nodes is let go."""
    trie, device = session.trie, session.model.device
    session.forget()
    log_p = torch.zeros(session.n_rows, 1, device=device)
    for level in range(depth):
        count = trie.n_nodes[level]
        node = torch.arange(count, device=device).repeat(session.n_rows)
        row = torch.arange(session.n_rows, device=device).repeat_interleave(count)
        logits = session.logits(level, Nodes(row, node, node.new_zeros(len(node), level)))
        below, children = trie.child_log_probs(level, node, logits, temperature)
        found = log_p.new_full((session.n_rows, trie.n_nodes[level + 1]), -torch.inf)
        cells = row[:, None] * found.shape[1] + children
        real = ~torch.isneginf(below)
        total = log_p[row, node][:, None] + below
        found.view(-1)[cells[real]] = total[real].to(found.dtype)
        log_p = found
    session.forget()
    return log_p


def content_of(vectors: Mapping[str, np.ndarray], n_trained: int, brought: bool) -> Content:
    """The content spaces of a run's items (`load_item_vectors`): texts around the mean of the trained ones; `brought` collaborative
    vectors, which a service has for new items as for old.
    """
    spaces = {}
    if "text" in vectors:
        text = vectors["text"]
        spaces["text"] = unit_rows(text - text[:n_trained].mean(0))
    if brought:
        spaces["collaborative"] = np.asarray(vectors["collaborative"])
    return Content(spaces)


def nodes_above(trie: Trie, codes: np.ndarray, depth: int) -> np.ndarray:
    """The node [K] of `depth` that each of `codes` [K, L] lies under; of a new path, the node of the trie that shares most of it."""
    paths = trie.codes_above(depth, torch.arange(trie.n_nodes[depth])).cpu().numpy()
    place = {tuple(path): node for node, path in enumerate(paths.tolist())}
    wanted, inverse = np.unique(codes[:, :depth], axis=0, return_inverse=True)
    found = np.array([place.get(tuple(path), -1) for path in wanted.tolist()], np.int64)
    for row in np.flatnonzero(found < 0):
        shared = (paths == wanted[row]).cumprod(1).sum(1)
        found[row] = int(shared.argmax())
    return found[inverse.reshape(-1)]


def load_newcomers(run: Run, trie: Trie) -> Newcomers | None:
    """The newcomers of a version of a run; None where there are none."""
    record = run.record("adapt")
    if record is None or NAME not in record["artifacts"]:
        return None
    facts, table = run.read_json("adapt", NAME), load_table(run)
    content = content_of(load_item_vectors(run), table.n_base, facts["brought"])
    again = {
        int(item): codes for item, codes in facts.get("again", {}).items()
    }  # trained items -> their new codes
    items = np.concatenate([np.array(sorted(again), np.int64), np.arange(table.n_base, table.n_items)])
    codes = np.array([again[item] for item in sorted(again)], np.int64).reshape(-1, table.n_levels)
    nodes = nodes_above(trie, np.concatenate([codes, table.codes[table.n_base :]]), facts["depth"])
    weights = Weights.of(facts["weights"])
    had = np.array([facts.get("had", {}).get(str(item), 0.0) for item in items.tolist()])
    return Newcomers(table.n_base, table.n_items, items, facts["depth"], nodes, content, weights, had)
