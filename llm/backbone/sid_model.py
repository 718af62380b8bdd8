"""The generator's core: backbone + semantic-ID rows + trie, and the exact log-probability of items.

    log p(item | prompt) = Σ_l log softmax_trie(z_l)[code_l]

where z_l are the head's logits over the codes of level l (`llm.backbone.heads`), and the softmax runs over
the node's children in the trie alone: the same normaliser in training, scoring and sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from llm.backbone.batching import Footprint
from llm.backbone.conditions import NOTHING, Condition, Updates
from llm.backbone.heads import CodeReader, Head, Reader, TokenHead
from llm.backbone.load import Backbone
from llm.backbone.ragged import LastMLPOnlyWhere, Layout, Memory
from llm.backbone.vocabulary import PREFIX, SidRows
from recsys.training.loop import keep_freed_memory
from semantic_ids.constraints import AllowList, Constraints
from semantic_ids.trie import Trie


@dataclass
class Packed:
    """Token numbers [Q] of B rows, laid one after the other as `layout` says."""

    tokens: torch.Tensor
    sid: torch.Tensor  # numbers of those that stand for items, or for their codes, ascending
    soft: torch.Tensor  # numbers of the places for soft tokens, ascending
    layout: Layout
    soft_places: int = 0  # of the row that has most of them


class SidModel(nn.Module):
    """`inner` maps inputs_embeds to hidden states: the frozen backbone, or that wrapped by a PEFT adapter."""

    kept_session: Any = None  # the last prompts that a recommender read: one, whoever shares the model
    inner: Any  # a transformers model: nn.Module's own types do not tell of its methods

    def __init__(
        self,
        backbone: Backbone,
        rows: SidRows,
        trie: Trie,
        reader: Reader | None = None,
        head: Head | None = None,
    ):
        """`reader` says how an item is read (None: as its codes), `head` how its codes are written
        (None: by the backbone, token after token).
        """
        super().__init__()
        keep_freed_memory()
        self.inner, self.rows = backbone.model, rows.to(backbone.device)
        self.trie, self.device = trie.to(backbone.device), backbone.device
        self.bos_id, self.encode = backbone.bos_id, backbone.encode
        self.text_size, self.hidden_size = backbone.text_embeddings.shape
        base = self.inner.get_base_model() if hasattr(self.inner, "get_base_model") else self.inner
        self.layers = tuple(getattr(base, "layers", ()))  # not as submodules a second time
        mlp = getattr(self.layers[-1], "mlp", None) if self.layers else None
        self._last_mlp = None if mlp is None else LastMLPOnlyWhere(mlp)
        self.updates = Updates(base)
        self.reader: Reader = CodeReader(rows, codes_of(trie)) if reader is None else reader
        self.head: Head = TokenHead(rows) if head is None else head
        self.footprint = Footprint(base.config, max(rows.sizes), self.dtype.itemsize, self.head)
        self.item_tokens = self.text_size + self.reader.numbers  # [N, W] token numbers of every item
        # [N, …]: what of a target the backbone reads, so as to predict the rest of it
        self.target_tokens = self.item_tokens[:, : self.head.states - 1]
        for part in (self.reader, self.head):
            if isinstance(part, nn.Module):
                part.to(backbone.device)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.inner.parameters()).dtype

    def pack(self, sequences: Sequence[Sequence[int]], alike: bool = False) -> Packed:
        """Token rows of any lengths, laid one after the other; `alike`: attention takes like lengths together
        (`llm.backbone.ragged.Layout`).
        """
        layout = Layout([len(sequence) for sequence in sequences], self.device, alike)
        tokens = np.fromiter(chain.from_iterable(sequences), np.int64, layout.n_tokens)
        # looked for here, where nobody has to wait for the device
        sid, soft = np.flatnonzero(tokens >= self.text_size), np.flatnonzero(tokens == PREFIX)
        a_row = np.bincount(np.searchsorted(layout.begins, soft, side="right"), minlength=1)
        together = torch.from_numpy(np.concatenate([tokens, sid, soft])).to(self.device)
        every, of_items, places = together.split([len(tokens), len(sid), len(soft)])
        return Packed(every, of_items, places, layout, int(a_row.max()))

    def embed(self, packed: Packed, prefix: torch.Tensor | None) -> torch.Tensor:
        """Input embeddings [Q, h] of packed tokens;
        the PREFIX places of row b take `prefix[b]` [m, h] in order.
        """
        tokens, sid, soft = packed.tokens, packed.sid, packed.soft
        embedded = self.inner.get_input_embeddings()(tokens.clamp(0, self.text_size - 1))
        items = self.reader(tokens[sid] - self.text_size)
        embedded = embedded.index_copy(0, sid, items.to(embedded.dtype))
        if not len(soft):
            return embedded
        given = 0 if prefix is None else prefix.shape[1]
        if prefix is None or packed.soft_places > given:
            raise ValueError(
                f"a prompt has {packed.soft_places} places for soft tokens, and {given} are given"
            )
        row = packed.layout.row[soft]
        order = torch.arange(len(soft), device=soft.device) - torch.searchsorted(row, row)
        flat = row * prefix.shape[1] + order
        values = nn.functional.embedding(flat, prefix.reshape(-1, prefix.shape[2]))
        return embedded.index_copy(0, soft, values.to(embedded.dtype))

    def hidden(
        self,
        packed: Packed,
        condition: Condition = NOTHING,
        wanted: torch.Tensor | None = None,
        memory: Memory | None = None,
    ) -> torch.Tensor:
        """Hidden states [S, h] of the packed tokens numbered `wanted` [S] (all of them: [Q, h]).

        Causal within each row. Keys and values of all tokens are left in an empty `memory` when given.
        """
        embedded = self.embed(packed, condition.prefix)
        output = self._forward(embedded, packed.layout.place, wanted, condition, packed.layout, memory=memory)
        if memory is not None:
            memory.advance(packed.layout.width)
        return output

    def node_hidden(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        layout: Layout,
        memory: Memory,
        sees: torch.Tensor,
        condition: Condition = NOTHING,
    ) -> torch.Tensor:
        """Hidden states [Q, h] of tree nodes: `sees` [B, W, columns] says where each looks, itself included.

        Their keys and values stand behind those that `memory` holds.
        """
        every = torch.arange(len(tokens), device=tokens.device)  # a node's token is a code
        embedded = self.embed(Packed(tokens, every, every[:0], layout), None)
        output = self._forward(embedded, positions, None, condition, layout, memory=memory, sees=sees)
        memory.advance(layout.width)
        return output

    def _forward(
        self,
        embedded: torch.Tensor,
        positions: torch.Tensor,
        wanted,
        condition: Condition,
        layout: Layout,
        **attention,
    ) -> torch.Tensor:
        if wanted is not None and self._last_mlp is not None:
            self._last_mlp.wanted = wanted
        try:
            with self.updates.applied(condition, layout, wanted):
                output = self.inner(
                    inputs_embeds=embedded[None],
                    position_ids=positions[None],
                    use_cache=False,
                    layout=layout,
                    **attention,
                ).last_hidden_state[0]
        finally:
            if self._last_mlp is not None:
                self._last_mlp.wanted = None
        return output if wanted is None else output.index_select(0, wanted)

    def path_log_probs(
        self,
        states: torch.Tensor,
        items: torch.Tensor,
        temperature: float = 1.0,
        constraints: Constraints | None = None,
        rows: torch.Tensor | None = None,
        smoothing: float = 0.0,
    ) -> torch.Tensor:
        """log p [n] of `items` [n] (see `Trie.path`) from `states` [n, S, h]:
        the hidden states that the head predicts their codes from.

        `smoothing` ε makes it the target of label smoothing: at each level (1 − ε) log p(code) + ε · the mean
        of log p over the codes that the trie has there (Szegedy et al. 2016, eq. 3, inside the trie).
        """
        path = self.trie.path(items)
        codes = self.trie.codes(path)
        total = states.new_zeros(len(items), dtype=torch.float32)
        for level in range(self.trie.n_levels):
            logits = self.head.logits(level, states, codes, path[:, level])
            log_probs, _ = self.trie.child_log_probs(
                level, path[:, level], logits, temperature, constraints, rows
            )
            child = path[:, level + 1] - self.trie.child_start[level][path[:, level]]
            value = log_probs.gather(1, child[:, None])[:, 0]
            if smoothing:
                live = ~torch.isneginf(log_probs)
                mean = log_probs.masked_fill(~live, 0.0).sum(1) / live.sum(1).clamp(min=1)
                value = (1 - smoothing) * value + smoothing * mean
            total = total + value
        return total

    def item_states(
        self, prompts: Sequence[Sequence[int]], items: np.ndarray, condition: Condition = NOTHING
    ) -> torch.Tensor:
        """Hidden states [B, S, h] that the codes of one item after each prompt are predicted from,
        in one packed pass.
        """
        codes = self.target_tokens[items].tolist()
        read = [[*prompt, *code] for prompt, code in zip(prompts, codes, strict=True)]
        packed = self._packed(read)
        last = torch.arange(-self.head.states, 0, device=self.device)
        wanted = packed.layout.ends[:, None] + last
        return self.hidden(packed, condition, wanted.reshape(-1)).view(*wanted.shape, -1)

    def item_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        items: np.ndarray,
        condition: Condition = NOTHING,
        constraints: Constraints | None = None,
    ) -> torch.Tensor:
        """log p [B] of one item after each prompt at temperature 1; differentiable."""
        states = self.item_states(prompts, items, condition)
        rows = torch.arange(len(items), device=self.device)
        return self.path_log_probs(states, torch.from_numpy(items), 1.0, constraints, rows)

    def _packed(self, read: Sequence[Sequence[int]]) -> Packed:
        """Rows whose likelihood is asked; the form of codes and tokens keeps its bits."""
        return self.pack(read, not self.head.reads_nodes)

    def list_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        lists: Sequence[np.ndarray],
        condition: Condition = NOTHING,
        excluded: Sequence[np.ndarray] | None = None,
        allowed: Sequence[np.ndarray | AllowList | None] | None = None,
    ) -> torch.Tensor:
        """log p [B] of a whole list of items (at least one) after each prompt, at temperature 1;
        differentiable.

            log p(y_1 … y_k | prompt) = Σ_j log p(y_j | prompt, y_1 … y_{j−1})

        in one packed pass. An item reads those before it as if they were history, and is drawn
        from what is neither in `excluded` [B] nor one of them, and in `allowed` [B] where that is given: a
        list with an item twice has −inf.
        """
        lengths = np.array([len(items) for items in lists])
        read = [
            [
                *prompt,
                *self.item_tokens[items[:-1]].reshape(-1).tolist(),
                *self.target_tokens[items[-1]].tolist(),
            ]
            for prompt, items in zip(prompts, lists, strict=True)
        ]
        packed = self._packed(read)
        width, states = self.item_tokens.shape[1], self.head.states
        # counted from the end of its row, an item's states begin so many tokens back: soft tokens never count
        back = np.concatenate([states + width * np.arange(length - 1, -1, -1) for length in lengths])
        ends = packed.layout.ends.repeat_interleave(packed.layout.lengths.new_tensor(lengths))
        first = ends - torch.from_numpy(back).to(self.device)
        wanted = first[:, None] + torch.arange(states, device=self.device)
        found = self.hidden(packed, condition, wanted.reshape(-1)).view(*wanted.shape, -1)
        places = [(row, place) for row, length in enumerate(lengths) for place in range(length)]
        out = [np.zeros(0, np.int64)] * len(lists) if excluded is None else excluded
        constraints = Constraints(
            self.trie,
            [np.concatenate([out[row], lists[row][:place]]) for row, place in places],
            None if allowed is None else [allowed[row] for row, _ in places],
        )
        flat = torch.from_numpy(np.concatenate(lists))
        rows = torch.arange(len(flat), device=self.device)
        values = self.path_log_probs(found, flat, 1.0, constraints, rows)
        return torch.segment_reduce(values, "sum", lengths=packed.layout.lengths.new_tensor(lengths))


def codes_of(trie: Trie) -> np.ndarray:
    """The codes [N, L] of every item."""
    return trie.codes(trie.path(torch.arange(trie.n_items))).cpu().numpy()
