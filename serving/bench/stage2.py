"""A Stage 2 step of E2P on the frozen backbone against the plain loop: a padded batch through a model with full logits."""

from __future__ import annotations

from statistics import median

import numpy as np
import torch

from llm.model import SidModel
from llm.prefixes import E2P
from llm.vocabulary import PREFIX
from recsys.seeds import rng
from serving.bench import world
from serving.bench.case import Result, in_turn, timed

SHOWN = 5  # recent items in a prompt
HEAD = 4  # tokens in front of them: BOS and "History:"
QUERY = 64  # tokens of the longest query


def stage2_step(quick: bool) -> list[Result]:
    """Forward, backward and AdamW of one batch. Queries of 1 to 64 tokens first; then prompts of one length."""
    batch, repeats = (8, 2) if quick else (32, 5)
    deep, shallow = world.smollm2(), world.smollm2(layers=6)
    return [
        _case(deep, None, batch, True, repeats, "30 layers, queries of 1 to 64 tokens", 2.0),
        _case(deep, None, batch, False, repeats, "30 layers, all prompts of one length", 2.0),
        _case(shallow, 6, batch, False, 2 * repeats, "first 6 layers, all prompts of one length", 2.0),
    ]


def _case(
    model: SidModel, layers: int | None, batch: int, queries: bool, repeats: int, what: str, target: float
) -> Result:
    generator = rng(0, "bench stage 2")
    items = generator.integers(0, model.trie.n_items, (batch, SHOWN + 1))
    lengths = generator.integers(1, QUERY + 1, batch) if queries else np.zeros(batch, np.int64)
    prompts = [
        [
            PREFIX,
            *generator.integers(0, 49_000, HEAD + length).tolist(),
            *model.item_tokens[row[:-1]].ravel().tolist(),
        ]
        for length, row in zip(lengths, items, strict=True)
    ]
    norm = float(model.inner.get_input_embeddings().weight.norm(dim=1).mean())
    vectors = torch.randn(batch, 120, generator=torch.Generator().manual_seed(0))
    ours, theirs = (_Phi(norm, model.hidden_size, vectors) for _ in range(2))
    peer = world.causal_lm(model, layers)
    tokens, labels = _right_padded(
        [p + model.item_tokens[row[-1]].tolist() for p, row in zip(prompts, items, strict=True)]
    )

    def our_step() -> None:
        ours.step(-model.item_log_probs(prompts, items[:, -1], ours.phi(vectors)).mean())

    def plain_step() -> None:
        embedded = peer.get_input_embeddings()(tokens.clamp(min=0))
        embedded = torch.where((tokens == PREFIX)[..., None], theirs.phi(vectors), embedded)
        attention = (tokens != -100).long()
        theirs.step(
            peer(inputs_embeds=embedded, attention_mask=attention, labels=labels, use_cache=False).loss
        )

    timing = in_turn(our_step, plain_step, repeats)
    real = sum(len(prompt) + model.trie.n_levels - 1 for prompt in prompts)
    rate, best = 2 * world.flops_a_token(model) * real / median(timing.ours), world.matmul_rate()
    return timed(
        f"Stage 2 step (E2P, frozen SmolLM2, {what}, batch {batch})",
        "plain loop: padded batch, logits over the whole vocabulary, cross-entropy",
        timing,
        target,
        f"matrix products, forward and backward: {rate / 1e9:.0f} of {best / 1e9:.0f} GFLOP/s ({rate / best:.0%})",
        tokens=real,
        padded_tokens=tokens.numel(),
    )


class _Phi:
    """A prefix under training."""

    def __init__(self, norm: float, hidden: int, vectors: torch.Tensor):
        self.phi = E2P(vectors.shape[1], 142, hidden, norm)
        self.optimizer = torch.optim.AdamW(self.phi.parameters(), lr=1e-3)

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def _right_padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels [B, T], −100 behind the end; only the last item's codes are labels."""
    tokens = torch.full((len(rows), max(map(len, rows))), -100)
    labels = tokens.clone()
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        labels[index, len(row) - len(world.SIZES) : len(row)] = torch.tensor(row[-len(world.SIZES) :])
    return tokens, labels
