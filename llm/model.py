"""The generator's core: backbone + semantic-ID rows + trie, and the exact log-probability of items.

    log p(item | prompt) = Σ_l log softmax_trie(z_l)[code_l],      z_l = W_l · h_l

where h_l is the hidden state after the prompt and the first l codes, W_l are the output rows of level l, and the
softmax runs over the node's children in the trie alone: the same normaliser in training, scoring and sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from llm.backbone import Backbone
from llm.vocabulary import PADDING, PREFIX, SidRows
from semantic_ids.trie import Exclusions, Trie


class SidModel(nn.Module):
    """`inner` maps inputs_embeds to hidden states: the frozen backbone, or that wrapped by a PEFT adapter."""

    inner: Any  # a transformers model: nn.Module's own types do not tell of its methods

    def __init__(self, backbone: Backbone, rows: SidRows, trie: Trie):
        super().__init__()
        self.inner, self.rows = backbone.model, rows.to(backbone.device)
        self.trie, self.device = trie.to(backbone.device), backbone.device
        self.bos_id, self.encode = backbone.bos_id, backbone.encode
        self.text_size, self.hidden_size = backbone.text_embeddings.shape
        codes = np.zeros((trie.n_items, trie.n_levels), np.int64)
        path = trie.path(torch.arange(trie.n_items))
        for level in range(trie.n_levels):
            codes[:, level] = trie.code[level][path[:, level + 1]].numpy()
        self.item_tokens = self.text_size + rows.offsets[:-1] + codes  # [N, L] token numbers of every item

    @property
    def dtype(self) -> torch.dtype:
        return next(self.inner.parameters()).dtype

    def embed(self, tokens: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        """Token numbers [B, T] -> input embeddings [B, T, h]; row b's PREFIX places take `prefix[b]` [m, h] in order."""
        text = self.inner.get_input_embeddings()
        is_sid = tokens >= self.text_size
        embedded = text(tokens.clamp(0, self.text_size - 1)) * (~is_sid)[..., None]
        # not by indexing: the gradient of an index with repeats is summed in an order that varies from run to run
        sid = nn.functional.embedding((tokens - self.text_size).clamp(min=0), self.rows.input)
        embedded = embedded + sid.to(embedded.dtype) * is_sid[..., None]
        if prefix is None:
            return embedded
        places = tokens == PREFIX
        order = (places.cumsum(1) - 1).clamp(0, prefix.shape[1] - 1)
        soft = prefix.to(embedded.dtype).gather(1, order[..., None].expand(-1, -1, prefix.shape[2]))
        return torch.where(places[..., None], soft, embedded)

    def hidden(self, tokens: torch.Tensor, prefix: torch.Tensor | None = None, cache=None) -> torch.Tensor:
        """Hidden states [B, T, h] of left-padded token rows; fills `cache` (a DynamicCache) when given."""
        real = tokens != PADDING
        positions = (real.cumsum(1) - 1).clamp(min=0)
        n = tokens.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
        mask = (causal & real[:, None, :]) | torch.eye(n, dtype=torch.bool, device=tokens.device)
        output = self.inner(
            inputs_embeds=self.embed(tokens, prefix),
            attention_mask=mask[:, None],
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def path_log_probs(
        self,
        states: torch.Tensor,
        items: torch.Tensor,
        temperature: float = 1.0,
        exclusions: Exclusions | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """log p [n] of `items` [n] from `states` [n, L, h]: the hidden states that predict their L codes."""
        path = self.trie.path(items)
        total = states.new_zeros(len(items), dtype=torch.float32)
        for level in range(self.trie.n_levels):
            logits = self.rows.logits(states[:, level], level)
            log_probs, _ = self.trie.child_log_probs(
                level, path[:, level], logits, temperature, exclusions, rows
            )
            child = path[:, level + 1] - self.trie.child_start[level][path[:, level]]
            total = total + log_probs.gather(1, child[:, None])[:, 0]
        return total

    def item_states(
        self, prompts: Sequence[Sequence[int]], items: np.ndarray, prefix: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [B, L, h] that predict the L codes of one item after each prompt, in one padded pass."""
        codes = self.item_tokens[items, :-1]
        tokens = self.left_padded([[*prompt, *code] for prompt, code in zip(prompts, codes, strict=True)])
        return self.hidden(tokens, prefix)[:, -self.trie.n_levels :]

    def item_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        items: np.ndarray,
        prefix: torch.Tensor | None = None,
        exclusions: Exclusions | None = None,
    ) -> torch.Tensor:
        """log p [B] of one item after each prompt at temperature 1; differentiable."""
        states = self.item_states(prompts, items, prefix)
        rows = torch.arange(len(items), device=self.device)
        return self.path_log_probs(states, torch.from_numpy(items).to(self.device), 1.0, exclusions, rows)

    def left_padded(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Token rows [B, T] on the model's device, PADDING in front."""
        longest = max(len(sequence) for sequence in sequences)
        tokens = np.full((len(sequences), longest), PADDING, np.int64)
        for row, sequence in enumerate(sequences):
            tokens[row, longest - len(sequence) :] = sequence
        return torch.from_numpy(tokens).to(self.device)
