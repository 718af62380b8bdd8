"""Training steps against the plain loop: a padded batch, and logits over the whole vocabulary."""

from __future__ import annotations

from statistics import median

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from llm.backbone.conditions import Condition
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import PREFIX
from llm.prompts.prefixes import E2P
from llm.stage1.adapt import window_loss
from llm.stage1.windows import Window
from recsys.seeds import rng
from serving.bench import world
from serving.bench.case import Result, in_turn, timed

SHOWN = 5  # recent items in a prompt
HEAD = 4  # tokens in front of them: BOS and "History:"
QUERY = 64  # tokens of the longest query


def stage2_step(quick: bool) -> list[Result]:
    """Forward, backward and AdamW of one batch. Queries of 1 to 64 tokens first;
    then prompts of one length.
    """
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
        ours.step(-model.item_log_probs(prompts, items[:, -1], Condition(ours.phi(vectors))).mean())

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
        f"matrix products, forward and backward: {rate / 1e9:.0f} of {best / 1e9:.0f} GFLOP/s "
        f"({rate / best:.0%})",
        tokens=real,
        padded_tokens=tokens.numel(),
    )


def stage1_step(quick: bool) -> list[Result]:
    """LoRA on attention and the rows of the semantic IDs: forward, backward and AdamW of a batch of windows.

    A third of the windows carries a 32-token profile, users' last windows are short, every item is a target.
    """
    layers, batch, repeats = 6, 8 if quick else 16, 3 if quick else 7
    generator = rng(0, "bench stage 1")
    model = world.smollm2(layers=layers)
    peer = world.causal_lm(model, layers)
    settings = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model.inner = get_peft_model(model.inner, settings)
    model.rows.requires_grad_(True)
    peer = get_peft_model(peer, settings)
    for table in (peer.get_input_embeddings(), peer.get_output_embeddings()):
        table.requires_grad_(True)  # the plain loop trains its vocabulary's rows, old ones with the new
    windows = []
    for _ in range(batch):
        items = generator.integers(0, model.trie.n_items, int(generator.integers(3, 13)))
        head = generator.integers(0, 49_000, HEAD + 32 * int(generator.random() < 1 / 3)).tolist()
        width = model.trie.n_levels
        body = model.item_tokens[items].ravel().tolist()
        windows.append(Window(head + body, items, len(head) + width * np.arange(len(items))))
    tokens, labels = _right_padded([window.tokens for window in windows])
    for index, window in enumerate(windows):
        labels[index, window.starts[0] : len(window.tokens)] = tokens[
            index, window.starts[0] : len(window.tokens)
        ]
    optimizers = [
        torch.optim.AdamW([p for p in side.parameters() if p.requires_grad], lr=1e-3)
        for side in (model, peer)
    ]

    def our_step() -> None:
        optimizers[0].zero_grad()
        window_loss(model, windows).backward()
        optimizers[0].step()

    def plain_step() -> None:
        optimizers[1].zero_grad()
        attention = (tokens != -100).long()
        peer(tokens.clamp(min=0), attention_mask=attention, labels=labels, use_cache=False).loss.backward()
        optimizers[1].step()

    timing = in_turn(our_step, plain_step, repeats)
    real = sum(len(window.tokens) for window in windows)
    rate, best = 2 * world.flops_a_token(model) * real / median(timing.ours), world.matmul_rate()
    return [
        timed(
            f"Stage 1 step (LoRA and rows, SmolLM2, first {layers} layers, batch {batch})",
            "plain loop: padded batch, logits over the whole vocabulary, its embedding and head trained",
            timing,
            None,
            f"matrix products, forward and backward: {rate / 1e9:.0f} of {best / 1e9:.0f} GFLOP/s "
            f"({rate / best:.0%})",
            tokens=real,
            padded_tokens=tokens.numel(),
        )
    ]


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
    """Tokens and labels [B, T], −100 behind the end; the last item's codes are labels."""
    tokens = torch.full((len(rows), max(map(len, rows))), -100)
    labels = tokens.clone()
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        labels[index, len(row) - len(world.SIZES) : len(row)] = torch.tensor(row[-len(world.SIZES) :])
    return tokens, labels
