"""A depth head asked about every node for many prompts at once, node after node: what a whole catalogue costs it.

The head's f_l(h, c_<l) is of pairs of a prompt and a node (`llm.backbone.heads.DepthHead`), but nothing has to be multiplied
for a pair that a prompt or a node alone can be multiplied for. With a = norm(h), e = Σ E_j[c_j] and one block,

    z_l = W_l (a + e) + W_l V (silu(r (G' a + G' e)) ⊙ r (U' a + U' e)),      r = 1 / rms(a + e),

G' and U' being G and U with the norm's weights in them: sums of what is known, and one product, of the inner state with the
rows W_l V of those codes alone that follow the node. Of 256 nodes of 47 children each that is a sixth of the arithmetic. Where
the last level asks its items what they are, its states are made (V u), and their items asked node by node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from llm.backbone.heads import DepthHead, GatedBlock, normed
from llm.decoding.nodes import at_root
from semantic_ids.trie import Trie

PAIRS = 1 << 18  # numbers of inner states that are made at once: 1 MiB, what a core has of cache
EPSILON = 1e-6  # of `normed`


def all_log_probs(head: DepthHead, states: Tensor, trie: Trie) -> Tensor:
    """log p [B, N] of every item after each of `states` [B, h], at temperature 1 and with nothing excluded."""
    log_p = at_root(head, states).index_select(1, trie.code[0][:]).log_softmax(1)
    for depth in range(1, trie.n_levels):
        bounds = trie.child_start[depth][:]
        found = log_p.repeat_interleave(bounds.diff(), 1)
        nodes = torch.nonzero(bounds.diff() > 1)[:, 0]  # an only child is certain
        for first, logits in children(head, depth, states, trie, nodes):
            found[:, first : first + logits.shape[1]] += logits.log_softmax(1)
        log_p = found
    return log_p.index_select(1, trie.item_leaf[:])


def children(
    head: DepthHead, depth: int, states: Tensor, trie: Trie, nodes: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Of each of `nodes` [n] of a `depth` above 0: its first child, and the logits [B, k] of its k children after each state."""
    rows, blocks = head._rows[0], head._blocks(depth - 1)
    output = rows.output[rows.offsets[depth] : rows.offsets[depth + 1]].float()
    offsets = torch.from_numpy(rows.offsets[:depth])
    a = normed(states.float(), head.norm)
    e = nn.functional.embedding(trie.codes_above(depth, nodes) + offsets, head.codes).sum(1)
    asks = head.asks if depth == trie.n_levels - 1 else None
    is_folded = len(blocks) == 1 and asks is None
    if is_folded:
        made, folded = _inner(blocks[0], a, e), output @ blocks[0].down.weight
        of_states, of_nodes = a @ output.T, e @ output.T
    else:
        made = _states(blocks, a, e)
    firsts, ends = (trie.child_start[depth][some].tolist() for some in (nodes, nodes + 1))
    at_once = max(1, PAIRS // (len(a) * (folded.shape[1] if is_folded else a.shape[1])))
    for start in range(0, len(nodes), at_once):
        for node, x in enumerate(made(start, start + at_once), start):
            below = slice(firsts[node], ends[node])
            codes = trie.code[depth][below]
            if is_folded:
                known = of_states.index_select(1, codes).add_(of_nodes[node, codes])
                yield firsts[node], known.addmm_(x, folded.index_select(0, codes).T)
                continue
            logits = x @ output.index_select(0, codes).T
            if asks is not None:
                queries = asks.query(normed(x, asks.norm))
                logits.addmm_(queries, asks.items.vectors.index_select(0, trie.leaf_item[below]).T)
            yield firsts[node], logits


def _inner(block: GatedBlock, a: Tensor, e: Tensor) -> Callable[[int, int], Tensor]:
    """silu(G n) ⊙ U n, n = norm(a_b + e_v), for nodes v from `start` to `stop`: [·, B, W]."""
    (gate_a, gate_e), (up_a, up_e) = (
        [(side * block.norm) @ layer.weight.T for side in (a, e)] for layer in (block.gate, block.up)
    )
    squares = (e * e).sum(1)[:, None] + 2 * (e @ a.T) + (a * a).sum(1)  # ‖a_b + e_v‖² [n, B]
    scale = (squares.clamp(min=0) / a.shape[1] + EPSILON).rsqrt()[:, :, None]

    def inner(start: int, stop: int) -> Tensor:
        gate = (gate_a + gate_e[start:stop, None]).mul_(scale[start:stop])
        up = (up_a + up_e[start:stop, None]).mul_(scale[start:stop])
        return nn.functional.silu(gate, inplace=True).mul_(up)

    return inner


def _states(blocks: list[GatedBlock], a: Tensor, e: Tensor) -> Callable[[int, int], Tensor]:
    """The states f_l behind any number of blocks: [·, B, h]."""
    inner = _inner(blocks[0], a, e) if blocks else None

    def states(start: int, stop: int) -> Tensor:
        x = a + e[start:stop, None]
        if inner is not None:
            x = x.add_(inner(start, stop) @ blocks[0].down.weight.T)
        for block in blocks[1:]:
            x = block(x)
        return x

    return states
