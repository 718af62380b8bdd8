"""What a method tells the frozen model about each request: soft tokens in front, and updates of layers.

A shared update (a bridge LoRA) and one update a request (a generated LoRA, a user's own) take the same road:
forward hooks on the linear layers, which look up the row that each packed token belongs to. So no copy of the
model is made per user, and the nodes of a request's tree share its update as they share its prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llm.backbone.ragged import Layout


@dataclass(frozen=True)
class LowRank:
    """y + B A x (LoRA, arXiv 2106.09685; its scale is inside `b`).

    a [r, in] and b [out, r] for every row, or a [R, r, in] and b [R, out, r]: a pair a request.
    """

    a: Tensor
    b: Tensor

    @property
    def device(self) -> torch.device:
        return self.a.device

    def apply(self, x: Tensor, y: Tensor, layout: Layout) -> Tensor:
        """x [Q, in] and y [Q, out] of packed tokens -> y with the update."""
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        if a.ndim == 2:
            return y + (x @ a.T) @ b.T
        return y + layout.gather(torch.bmm(torch.bmm(layout.spread(x), a.transpose(1, 2)), b.transpose(1, 2)))

    def rows(self, index: Tensor) -> LowRank:
        return (
            self
            if self.a.ndim == 2
            else LowRank(self.a.index_select(0, index), self.b.index_select(0, index))
        )

    def scaled(self, strength: float) -> LowRank:
        return LowRank(self.a, self.b * strength)


@dataclass(frozen=True)
class Gain:
    """y ⊙ g (IA3, arXiv 2205.05638): g [out] for every row, or [R, out]."""

    gain: Tensor

    @property
    def device(self) -> torch.device:
        return self.gain.device

    def apply(self, x: Tensor, y: Tensor, layout: Layout) -> Tensor:
        gain = self.gain.to(y.dtype)
        return y * (gain if gain.ndim == 1 else gain.index_select(0, layout.row))

    def rows(self, index: Tensor) -> Gain:
        return self if self.gain.ndim == 1 else Gain(self.gain.index_select(0, index))

    def scaled(self, strength: float) -> Gain:
        return Gain(1 + strength * (self.gain - 1))


class Update(Protocol):
    """What changes the output of a linear layer, for every request or for each its own."""

    @property
    def device(self) -> torch.device: ...

    def apply(self, x: Tensor, y: Tensor, layout: Layout) -> Tensor: ...

    def rows(self, index: Tensor) -> Update: ...

    def scaled(self, strength: float) -> Update: ...


@dataclass(frozen=True)
class Condition:
    """`prefix` [R, m, h]; `known` [R] says which requests get those soft tokens (None: all);
    `updates` by layer name.
    """

    prefix: Tensor | None = None
    known: np.ndarray | None = None
    updates: Mapping[str, tuple[Update, ...]] = field(default_factory=dict)

    def rows(self, index: np.ndarray) -> Condition:
        """The condition of some of the requests."""
        some = torch.from_numpy(np.asarray(index, dtype=np.int64))
        prefix = None if self.prefix is None else self.prefix.index_select(0, some.to(self.prefix.device))
        device = next((update.device for all_ in self.updates.values() for update in all_), None)
        there = some if device is None else some.to(device)
        updates = {name: tuple(one.rows(there) for one in all_) for name, all_ in self.updates.items()}
        return Condition(prefix, None if self.known is None else self.known[index], updates)

    def scaled(self, strength: float) -> Condition:
        """Soft tokens and updates times `strength`; at 0 there are no soft tokens at all.

        A backbone that normalises its input by its root mean square sees a soft token's direction whatever
        its length, so a weak prefix still speaks: only 0 is silence (LOG.md).
        """
        if strength == 1.0:
            return self
        updates = {name: tuple(one.scaled(strength) for one in all_) for name, all_ in self.updates.items()}
        if self.prefix is None:
            return replace(self, updates=updates)
        if strength == 0.0:
            return Condition(None, None, updates)
        return Condition(self.prefix * strength, self.known, updates)

    def beside(self, other: Condition) -> Condition:
        """Both: soft tokens one after the other, updates added.
        A request that either does not know gets no soft token.
        """
        known = [one.known for one in (self, other) if one.known is not None]
        prefixes = [one.prefix for one in (self, other) if one.prefix is not None]
        updates = {
            name: (*self.updates.get(name, ()), *other.updates.get(name, ()))
            for name in (*self.updates, *other.updates)
        }
        return Condition(
            torch.cat(prefixes, 1) if prefixes else None,
            np.logical_and.reduce(known) if known else None,
            updates,
        )

    def soft_tokens(self, requests: int) -> np.ndarray:
        """How many soft tokens each request gets [R]."""
        m = 0 if self.prefix is None else self.prefix.shape[1]
        return np.full(requests, m) if self.known is None else np.where(self.known, m, 0)


NOTHING = Condition()


class Updates:
    """Hooks on a model's linear layers that add a condition's updates to what they compute,
    while one is set.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._hooked: dict[str, Any] = {}
        self._active: Mapping[str, tuple[Update, ...]] = {}
        self._layouts: dict[int, Layout] = {}  # by number of tokens

    def layers(self, kinds: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(in, out) of every linear layer whose name ends with one of `kinds`, such as q_proj,
        in the model's order.

        Raises `ValueError` for a kind that the model does not have.
        """
        found = {
            name: (module.in_features, module.out_features)
            for name, module in self._model.named_modules()
            if name.rsplit(".", 1)[-1] in kinds and hasattr(module, "in_features")
        }
        missing = set(kinds) - {name.rsplit(".", 1)[-1] for name in found}
        if missing:
            raise ValueError(f"the backbone has no linear layer called {', '.join(sorted(missing))}")
        return found

    @contextmanager
    def applied(self, condition: Condition, layout: Layout, wanted: Tensor | None) -> Iterator[None]:
        """Within this block every forward pass over `layout` is updated;
        the last MLP may see only `wanted` of its tokens.
        """
        if not condition.updates:
            yield
            return
        for name in condition.updates:
            if name not in self._hooked:
                module = self._model.get_submodule(name)
                self._hooked[name] = module.register_forward_hook(self._hook(name))
        self._layouts = {layout.n_tokens: layout}
        if wanted is not None and len(wanted) != layout.n_tokens:
            counts = torch.bincount(layout.row[wanted], minlength=layout.n_rows)
            self._layouts[len(wanted)] = Layout(counts, wanted.device)
        self._active = condition.updates
        try:
            yield
        finally:
            self._active, self._layouts = {}, {}

    def _hook(self, name: str):
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            updates = self._active.get(name)
            if not updates:
                return None
            x, y = inputs[0], output
            layout = self._layouts[x.shape[1]]
            for update in updates:
                y = update.apply(x[0], y[0], layout)[None]
            return y

        return add
