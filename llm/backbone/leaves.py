"""Items as the leaves of the trie, with a frozen vector each: what a head asks at the last level (`llm.backbone.heads`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from semantic_ids.trie import Trie

AT_ONCE = 1 << 22  # numbers of item vectors that are gathered at once: 16 MiB


class LeafItems:
    """Frozen `vectors` [N, d] of the items below each node of the last inner depth."""

    def __init__(self, trie: Trie, vectors: Tensor):
        self.trie, self.vectors = trie, vectors

    def scores(self, queries: Tensor, nodes: Tensor) -> Tensor:
        """q · v of the items below `nodes` [P], each in the column of its last code: [P, sizes[−1]], 0 where there is none.
        Differentiable in `queries` [P, d].
        """
        return _Scores.apply(queries, nodes, self)

    def groups(self, nodes: Tensor) -> Iterator[_Group]:
        """The items below `nodes` [P], a few nodes at a time, those of like width together.

        Where every node is asked equally often, as for the whole catalogue of some requests, its items are gathered once.
        """
        trie, dim = self.trie, self.vectors.shape[1]
        if not len(nodes):
            return
        asked, inverse, counts = torch.unique(nodes, return_inverse=True, return_counts=True)
        times = int(counts[0]) if int(counts.min()) == int(counts.max()) else 1
        if times == 1:
            asked, places = nodes, torch.arange(len(nodes), device=nodes.device)[:, None]
        else:
            places = torch.argsort(inverse, stable=True).view(len(asked), times)
        starts = trie.leaf_start[trie.n_levels - 1]
        first = starts[asked]
        width = starts[asked + 1] - first
        order = torch.argsort(width, stable=True)
        size = max(1, AT_ONCE // (dim * max(1, int(width.max()))))
        for some in order.split(size):
            column = torch.arange(int(width[some].max()), device=nodes.device)
            leaf = first[some, None] + torch.minimum(column, width[some, None] - 1)
            vectors = nn.functional.embedding(trie.leaf_item[leaf], self.vectors)
            real = (column < width[some, None]).to(vectors.dtype)
            yield _Group(places[some], trie.code[trie.n_levels - 1][leaf], vectors * real[:, :, None])


class _Group(NamedTuple):
    """G nodes, each asked by T rows: their items, as wide as the widest (zeros behind a node's last)."""

    places: Tensor  # [G, T] of the rows that ask
    codes: Tensor  # [G, W] of the items, the last one's repeated behind it
    vectors: Tensor  # [G, W, d]


class _Scores(torch.autograd.Function):
    """Vectors are gathered on the way back once more: [P, width, d] is never held."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, nodes: Tensor, items: LeafItems) -> Tensor:
        ctx.items = items
        ctx.save_for_backward(nodes)
        result = queries.new_zeros(len(queries), items.trie.sizes[-1])
        for places, codes, vectors in items.groups(nodes):
            found = torch.bmm(queries[places], vectors.transpose(1, 2))  # [G, T, W]
            spread = found.new_zeros(*places.shape, result.shape[1])
            spread.scatter_add_(2, codes[:, None].expand(found.shape), found)
            result[places] = spread
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (nodes,) = ctx.saved_tensors
        result = gradients[0].new_zeros(len(nodes), ctx.items.vectors.shape[1])
        for places, codes, vectors in ctx.items.groups(nodes):
            of_items = gradients[0][places]
            of_items = of_items.gather(2, codes[:, None].expand(*places.shape, codes.shape[1]))
            result[places] = torch.bmm(of_items, vectors)
        return result, None, None


def principal(vectors: Tensor, dim: int) -> Tensor:
    """The first `dim` principal components [N, dim] of item vectors [N, d], of mean square 1.

    Raises `ValueError` where there are fewer.
    """
    if dim > vectors.shape[1]:
        raise ValueError(
            f"adapt.head_asks_dims is {dim}, and the items' vectors have {vectors.shape[1]} dimensions"
        )
    centred = vectors.double() - vectors.double().mean(0)
    axes = torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, :dim]
    largest = axes.abs().argmax(0, keepdim=True)
    found = centred @ (axes * axes.gather(0, largest).sign())  # an axis has two directions: one of them
    return (found / found.pow(2).mean().sqrt().clamp(min=1e-12)).float()
