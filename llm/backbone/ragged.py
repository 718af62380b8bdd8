"""Forward passes without padding: the linear layers see packed tokens, and attention alone sees rows.

B sequences of different lengths are laid one after the other as one sequence of Q = Σ lengths tokens, so
norms and matrix products, which are nearly all of the work, spend nothing on padding. Only inside attention
are queries, keys and values spread to [B, longest], and what comes out is gathered again. That is a function
registered with transformers (`AttentionInterface`), so it serves any architecture there, wrapped by PEFT or
not, forward and backward.

A `Memory` keeps the keys and values of a batch of prompts once. Later calls (the nodes of a trie level)
append theirs and say with `sees` who sees whom; nothing of a prompt is copied per candidate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

NAME = "prelude_ragged"  # the attention implementation's name in transformers
UNSUPPORTED = ("softcap", "s_aux", "position_bias")  # what some architectures pass to their attention


class Layout:
    """Where Q packed tokens stand: row b holds the `lengths[b]` tokens after those of the rows before it.

    row, place [Q]: a token's row and its place in it; width: the longest row; ends [B]: one past a row's last
    token. `begins` [B] is where rows start, in NumPy, for who would else wait for the device.

    `alike`: attention takes rows of like lengths together, in `parts`, so that a short row is not padded to the
    longest (last bits differ); `order` and `back` [Q] bring tokens into the parts' order and out of it, None where that is theirs.
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray | Tensor, device: torch.device, alike: bool = False
    ):
        given = np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else lengths, dtype=np.int64)
        self.n_rows, self.width, self.n_tokens = len(given), int(given.max(initial=0)), int(given.sum())
        row = np.repeat(np.arange(len(given)), given)
        ends = np.cumsum(given)
        place = np.arange(self.n_tokens) - (ends - given)[row]
        self.begins = ends - given
        self.even = self.n_tokens == self.n_rows * self.width  # nothing to spread
        arrays = (given, row, place, ends, row * self.width + place)
        together = torch.from_numpy(np.concatenate(arrays)).to(device)  # one copy: each waits for the device
        self.lengths, self.row, self.place, self.ends, self._slot = together.split(
            [len(array) for array in arrays]
        )
        # numbers of tokens, and the layout of these rows alone; none: all in one
        self.parts: list[tuple[slice, Layout]] = []
        self.order: Tensor | None = None
        self.back: Tensor | None = None
        if alike and device.type == "cpu":
            rising, begin = np.sort(given), 0
            if (given != rising).any():
                order = np.argsort(
                    given[row], kind="stable"
                )  # tokens by the length of their row, which stays together
                self.order, self.back = torch.from_numpy(order), torch.from_numpy(np.argsort(order))
            for first, end in _runs(rising):
                part = Layout(rising[first:end], device)
                self.parts.append((slice(begin, begin + part.n_tokens), part))
                begin += part.n_tokens

    def spread(self, packed: Tensor) -> Tensor:
        """[Q, …] → [B, width, …], zeros behind the end of a row."""
        if not self.even:
            rows = packed.new_zeros(self.n_rows * self.width, *packed.shape[1:])
            packed = rows.index_copy(0, self._slot, packed)
        return packed.view(self.n_rows, self.width, *packed.shape[1:])

    def gather(self, rows: Tensor) -> Tensor:
        """[B, width, …] → [Q, …]."""
        flat = rows.reshape(self.n_rows * self.width, *rows.shape[2:])
        return flat if self.even else flat.index_select(0, self._slot)


def _runs(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Runs of rows (first, one past the last) of ascending `lengths` within a run that differ by half at most."""
    runs, first = [], 0
    while first < len(lengths):
        end = int(np.searchsorted(lengths, max(1.5 * lengths[first], lengths[first] + 2), side="right"))
        runs.append((first, max(end, first + 1)))
        first = runs[-1][1]
    return runs


class Memory:
    """Keys and values [B, columns, heads, d] of each layer, in buffers with room behind;
    `used` columns are filled.
    """

    def __init__(self) -> None:
        self.used = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, W, heads, d] behind the used columns; returns views of all columns up to there.

        `used` is moved by the caller, once all layers have written (`advance`).
        """
        end = self.used + key.shape[1]
        held = self._layers.get(layer)
        if held is None or held[0].shape[1] < end:
            held = self._grown(held, key, value, end)
            self._layers[layer] = held
        held[0][:, self.used : end], held[1][:, self.used : end] = key, value
        return held[0][:, :end], held[1][:, :end]

    def advance(self, columns: int) -> None:
        self.used += columns

    def rewind(self, used: int) -> None:
        """Forget the columns from `used` on."""
        self.used = used

    def keep(self, columns: Tensor, at: int) -> None:
        """Move the columns numbered `columns` [B, K] (a row its own) to `at`,
        and forget what is behind them.
        """
        for held in self._layers.values():
            for x in held:
                x[:, at : at + columns.shape[1]] = torch.take_along_dim(x, columns[:, :, None, None], 1)
        self.used = at + columns.shape[1]

    def _grown(
        self, held: tuple[Tensor, Tensor] | None, key: Tensor, value: Tensor, end: int
    ) -> tuple[Tensor, Tensor]:
        if held is None:  # a prompt: no room is taken before somebody draws
            return torch.empty_like(key), torch.empty_like(value)
        room = end + max(end - self.used, end // 2)
        grown = tuple(x.new_empty(x.shape[0], room, *x.shape[2:]) for x in held)
        for new, old in zip(grown, held, strict=True):
            new[:, : self.used] = old[:, : self.used]
        return grown[0], grown[1]


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    memory: Memory | None = None,
    sees: Tensor | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention over packed `query` [1, H, Q, d], `key` and `value` [1, K, Q, d] -> [1, Q, H, d].

    Without `sees` each row is causal in itself (and is written to an empty `memory` if one is given). With
    `sees` [B, W, columns] (bool) row b's W places look where it says among the memory's columns and their
    own. A call without a layout is transformers' own, on an unpadded batch.
    """
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    # to leave one out would be another model's attention, and nobody would notice
    for feature in UNSUPPORTED:
        if kwargs.get(feature) is not None:
            raise ValueError(
                f"the backbone's attention uses {feature}, which packed forward passes do not have"
            )
    if (window := kwargs.get("sliding_window")) and layout.width > window:
        raise ValueError(f"a sequence of {layout.width} tokens is longer than the model's window of {window}")
    if layout.parts and memory is None and sees is None:
        packed, mixed = [x[0].transpose(0, 1) for x in (query, key, value)], []
        if layout.order is not None:
            packed = [x.index_select(0, layout.order) for x in packed]
        for tokens, part in layout.parts:
            q, k, v = (part.spread(x[tokens]) for x in packed)
            mixed.append(part.gather(_causal(q, k, v, scaling, dropout)))
        out = torch.cat(mixed)
        return (out if layout.back is None else out.index_select(0, layout.back))[None], None
    q, k, v = (layout.spread(x[0].transpose(0, 1)) for x in (query, key, value))  # [B, W, heads, d]
    if memory is not None:
        k, v = memory.add(module.layer_idx, k, v)  # type: ignore[arg-type]
    out = _causal(q, k, v, scaling, dropout) if sees is None else _masked(q, k, v, sees, scaling)
    return layout.gather(out)[None], None


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, dropout: float) -> Tensor:
    """Places behind the end of a row come after its own, so a row's own never see them: no mask is needed."""
    groups = q.shape[2] // k.shape[2]
    if groups > 1 and q.dtype == torch.float32 and q.device.type != "cpu":
        # no fused kernel of CUDA takes shared heads in float32, and the plain one writes [B, heads, W, W]
        k, v, groups = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2), 1
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = nn.functional.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=groups > 1
    )
    return out.transpose(1, 2)


def _masked(q: Tensor, k: Tensor, v: Tensor, sees: Tensor, scaling: float | None) -> Tensor:
    """The query heads that share a key head are laid side by side as places,
    so that keys are not repeated.
    """
    rows, width, heads, d = q.shape
    kv_heads = k.shape[2]
    groups = heads // kv_heads
    q = (
        q.view(rows, width, kv_heads, groups, d)
        .permute(0, 2, 3, 1, 4)
        .reshape(rows, kv_heads, groups * width, d)
    )
    mask = sees[:, None].repeat(1, 1, groups, 1)
    out = nn.functional.scaled_dot_product_attention(
        q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scaling
    )
    out = out.view(rows, kv_heads, groups, width, d).permute(0, 3, 1, 2, 4)
    return out.reshape(rows, width, heads, d)


def register() -> None:
    """Let models of transformers attend so, by `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, ragged_attention)


class LastMLPOnlyWhere:
    """While `wanted` [S] is set, the last layer's MLP is computed for those packed tokens alone,
    and is 0 elsewhere.

    The other tokens' last hidden states are then wrong, and nobody reads them: their keys and values come
    from before that MLP. At 6 layers this is an eighth of a forward pass.
    """

    def __init__(self, mlp: nn.Module):
        self.wanted: Tensor | None = None
        mlp.register_forward_pre_hook(self._before)
        mlp.register_forward_hook(self._after)

    def _before(self, module: nn.Module, inputs: tuple[Tensor, ...]):
        if self.wanted is None:
            return None
        self._n_tokens = inputs[0].shape[1]
        return (inputs[0].index_select(1, self.wanted), *inputs[1:])

    def _after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor):
        if self.wanted is None:
            return None
        full = output.new_zeros(1, self._n_tokens, output.shape[2])
        return full.index_copy(1, self.wanted, output)
