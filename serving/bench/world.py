"""The drawing benchmarks' world: SmolLM2 with 10,000 random items, and the same model in `transformers`.

The rows of the semantic IDs are random: an untrained Stage 1. Timings do not depend on what
the model believes, only on how concentrated it is, which is stated as the number of
distinct first codes among 30 draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm.backbone.conditions import NOTHING, Condition
from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows
from llm.decoding.session import PromptSession
from recsys.recommender import Request
from recsys.seeds import rng
from semantic_ids.constraints import Constraints
from semantic_ids.trie import Trie

SIZES = (256, 256, 256)


def random_codes(n_items: int, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> np.ndarray:
    """[n_items, L] distinct code rows in random order."""
    space = int(np.prod(sizes))
    chosen = np.zeros(0, np.int64)
    generator = rng(seed, "bench codes")
    while len(chosen) < n_items:
        chosen = np.unique(np.concatenate([chosen, generator.integers(0, space, 2 * n_items)]))
    chosen = generator.choice(chosen, n_items, replace=False)
    return np.stack(np.unravel_index(chosen, sizes), axis=1)


def smollm2(n_items: int = 10_000, layers: int | None = None) -> SidModel:
    """SmolLM2-135M over `n_items` random items, float32 on CPU."""
    return sid_model(BackboneConfig(name="smollm2", layers=layers, device="cpu"), n_items)


def sid_model(config: BackboneConfig, n_items: int) -> SidModel:
    backbone = load_backbone(config)
    rows = SidRows(SIZES, backbone.hidden_size)
    rows.start_from([None] * len(SIZES), float(backbone.text_embeddings.float().norm(dim=1).mean()), seed=0)
    return SidModel(backbone, rows, Trie(random_codes(n_items), SIZES)).eval().requires_grad_(False)


def random_prompts(n: int, tokens: int, seed: int = 0) -> list[list[int]]:
    return rng(seed, "bench prompts").integers(0, 49_000, (n, tokens)).tolist()


def requests(n: int) -> list[Request]:
    return [Request(f"bench {index}", index, 1) for index in range(n)]


def session(model: SidModel, prompts: list[list[int]], condition: Condition = NOTHING) -> PromptSession:
    nothing = [np.zeros(0, np.int64)] * len(prompts)
    return PromptSession(model, prompts, condition, Constraints(model.trie, nothing))


def causal_lm(model: SidModel, layers: int | None = None) -> Any:
    """The same SmolLM2 as a `LlamaForCausalLM` whose vocabulary was extended
    by the rows of the semantic IDs.
    """
    from transformers import LlamaForCausalLM

    inner = load_backbone(BackboneConfig(name="smollm2", layers=layers, device="cpu")).model
    inner.set_attn_implementation("sdpa")
    config = inner.config
    text = inner.get_input_embeddings().weight
    config.vocab_size = len(text) + len(model.rows.input)
    config.tie_word_embeddings = False
    with torch.device("meta"):
        peer = LlamaForCausalLM(config)
    inner.embed_tokens = nn.Embedding.from_pretrained(torch.cat([text, model.rows.input.detach()]))
    head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    head.weight = nn.Parameter(torch.cat([text, model.rows.output.detach()]))
    peer.model, peer.lm_head = inner, head
    peer.generation_config.pad_token_id = 0
    return peer.eval().requires_grad_(False)


def dict_trie(model: SidModel) -> dict:
    """Nested dicts of token numbers: {first: {second: {third: {}}}}."""
    root: dict = {}
    for path in model.item_tokens.tolist():
        node = root
        for token in path:
            node = node.setdefault(token, {})
    return root


def allowed_tokens(trie: dict, prompt_tokens: int) -> Callable[[int, Tensor], list[int]]:
    """What `generate(prefix_allowed_tokens_fn=…)` wants:
    the children of what was written after the prompt.
    """

    def allowed(batch: int, tokens: Tensor) -> list[int]:
        node = trie
        for token in tokens[prompt_tokens:].tolist():
            node = node[token]
        return list(node)

    return allowed


def matmul_rate(tokens: int = 2048, width: int = 576, inner: int = 1536) -> float:
    """FLOP/s of the model's widest matrix product on this machine now:
    the floor that cases are held against.
    """
    a, b = torch.randn(tokens, width), torch.randn(inner, width)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ b.T
        best = max(best, 2 * tokens * width * inner / (time.perf_counter() - start))
    return best


def flops_a_token(model: SidModel) -> int:
    """Of one forward pass: two for each weight of the layers (embeddings and
    attention over the context left out).
    """
    table = model.inner.get_input_embeddings().weight.numel()
    return 2 * (sum(parameter.numel() for parameter in model.inner.parameters()) - table)
