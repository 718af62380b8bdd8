"""How many requests are forwarded at once: as many as fit into a number of bytes, alike lengths together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from llm.backbone.heads import Head

BUDGET = 1 << 30  # bytes; what a batch may take beside the weights
# nodes of earlier calls that a session keeps, in levels of the call at hand (llm.decoding.draws)
KEPT_LEVELS = 4


class Footprint:
    """Bytes that inference takes, from the shape of a model: an upper bound by count of the live tensors.

    A token keeps its key and value in every layer (`kept`). While a layer runs, a token has the residual, the
    normed input, queries, keys, values and their spread copies, and in the MLP gate, up and their product
    (`working`); a node of the trie has logits, a mask and a float64 distribution over the widest level
    (`node`). Where the `head` does not have nodes read by the model, they take no columns, and what the head works with.
    """

    def __init__(self, config: Any, widest_level: int, itemsize: int, head: Head):
        hidden, heads = config.hidden_size, config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or hidden // heads
        kv = (getattr(config, "num_key_value_heads", None) or heads) * head_dim
        inner = getattr(config, "intermediate_size", None) or 4 * hidden
        self.kept = 2 * config.num_hidden_layers * kv * itemsize
        self.working = (4 * hidden + 3 * heads * head_dim + 4 * kv + 3 * inner) * itemsize
        self.node = 24 * widest_level + head.node_bytes
        self.reads_nodes = head.reads_nodes

    def of(self, tokens: int, nodes: int, levels: int) -> int:
        """A request of a prompt of `tokens`, then `nodes` nodes on each of `levels` levels."""
        if not self.reads_nodes:
            return tokens * (self.kept + self.working) + nodes * self.node
        columns = (KEPT_LEVELS + max(levels - 1, 0)) * nodes
        kept = (tokens + columns + columns // 2) * self.kept  # buffers grow by half
        return kept + max(tokens, nodes) * self.working + (KEPT_LEVELS + 1) * nodes * self.node


def by_length(
    lengths: Sequence[int] | np.ndarray,
    footprint: Footprint,
    nodes: int,
    levels: int,
    budget: int = BUDGET,
    extra: int = 0,
) -> Iterator[np.ndarray]:
    """Indices of prompts of `lengths` tokens, alike lengths together, as many as fit into `budget` bytes;
    at least one.

    A batch's longest prompt counts for all of its prompts: attention is over rows of that width. `extra` are
    bytes that each prompt takes besides (its condition).
    """
    if budget < 1:
        raise ValueError(f"a memory budget must be at least a byte, got {budget}")
    counts = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(counts, kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while (
            end < len(order)
            and (end + 1 - start) * (footprint.of(int(counts[order[end]]), nodes, levels) + extra) <= budget
        ):
            end += 1
        yield order[start:end]
        start = end
