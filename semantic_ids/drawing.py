"""One step of exact i.i.d. sampling inside the trie, for many nodes and many draws at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from semantic_ids.trie import Trie, tempered
from semantic_ids.trie_arrays import Mask

BLOCK = 32  # children summed at once; a draw then looks inside one block only


@torch.no_grad()
def draw_children(
    trie: Trie,
    depth: int,
    nodes: Tensor,
    logits: Tensor,
    member: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    constraints: Mask | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The child [D] that each draw falls on, a node of depth + 1, and its log-probability [D] (float64).

    Draw d is at `nodes[member[d]]`, of `depth`, and takes the child where the cumulative distribution over
    the node's live children, in their order, passes `uniform[d]` in [0, 1) (float64): the inverse-CDF draw. A
    child of probability 0 is never taken. `nodes`, `logits`, `temperature`, `constraints` and `rows` as in
    `Trie.child_log_probs`; draws may be in any order. Probabilities are float32 and sums of blocks too, so a
    draw differs from exact arithmetic only where its number is within about 1e-7 of a boundary. Raises
    `ValueError` for a node without a live child.
    """
    scores, first = trie.child_scores(depth, nodes, logits, constraints, rows, by_code=True)
    probability = tempered(scores, temperature).softmax(1)
    block = min(BLOCK, probability.shape[1])
    if probability.shape[1] % block:
        probability = functional.pad(probability, (0, -probability.shape[1] % block))
    width = probability.shape[1]
    blocks = probability.view(-1, block)
    # One running sum over all rows: it grows by 1 a row, so float64 keeps 12 digits of a row's after 1e4
    # rows.
    reached = torch.cat([uniform.new_zeros(1), blocks.sum(1).double().cumsum(0)])
    edges = reached[:: width // block]
    if len(nodes) and not edges[-1].isfinite():
        hopeless = int(edges.isfinite().sum()) - 1
        raise ValueError(f"node {int(nodes[hopeless])} of depth {depth} has no allowed child")
    begin, end = edges.index_select(0, member), edges.index_select(0, member + 1)
    target = _below(begin + uniform * (end - begin), end)
    which = torch.searchsorted(reached, target, right=True) - 1
    inside = blocks.index_select(0, which).double().cumsum(1)
    rest = _below(target - reached.index_select(0, which), inside[:, -1])
    at = which * block + torch.searchsorted(inside, rest[:, None], right=True)[:, 0]
    column, dense = at - member * width, trie.dense[depth]
    if dense is None:
        child = first.index_select(0, member) + column
    else:
        child = dense.child[nodes.index_select(0, member) * trie.sizes[depth] + column]
    return child, probability.view(-1).index_select(0, at).double().log()


def _below(value: Tensor, bound: Tensor) -> Tensor:
    """`value`, but strictly below `bound`: rounding must not step over the last child of probability > 0."""
    return torch.minimum(value, torch.nextafter(bound, torch.zeros_like(bound)))
