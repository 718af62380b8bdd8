"""Candidates against `transformers`' `generate`: many users, one user, and what a soft prefix costs."""

from __future__ import annotations

from statistics import median

import numpy as np
import torch

from llm.backbone.conditions import Condition
from llm.backbone.vocabulary import PREFIX
from llm.decoding import draws, scoring
from llm.decoding.int8 import quantise
from llm.prompts.prefixes import E2P
from serving.bench import world
from serving.bench.case import Result, Timing, in_turn, timed

PROMPT = 60  # tokens
DRAWS = 30


def many_users(quick: bool) -> list[Result]:
    """30 i.i.d. draws for each of 64 users (quick: 3 users), SmolLM2-135M, 10,000 items."""
    users = 3 if quick else 64
    model = world.smollm2()
    peer, trie = world.causal_lm(model), world.dict_trie(model)
    prompts, asked = world.random_prompts(users, PROMPT), world.requests(users)
    tokens = torch.tensor(prompts)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["ours"] = draws.draw(world.session(model, prompts), asked, DRAWS, seed=0)[0]

    def theirs() -> None:
        found["peer"] = peer.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=DRAWS,
            max_new_tokens=3, min_new_tokens=3, eos_token_id=None,
            prefix_allowed_tokens_fn=world.allowed_tokens(trie, PROMPT),
        ).numpy()  # fmt: skip

    timing = in_turn(ours, theirs, 2, warm_up=quick)
    written = _item_numbers(model, found["peer"][:, PROMPT:])
    first = model.trie.path(torch.from_numpy(found["ours"]).reshape(-1))[:, 1].reshape(users, DRAWS)
    nodes = sum(len(row.unique()) for row in first)
    flops = world.flops_a_token(model) * (users * PROMPT + nodes)
    rate, best = flops / median(timing.ours), world.matmul_rate()
    return [
        timed(
            f"{DRAWS} samples × {users} users, {PROMPT}-token prompts, SmolLM2-135M, 10k items",
            "transformers generate(do_sample, num_return_sequences=30, prefix_allowed_tokens_fn) with a dict "
            "trie",
            timing,
            12.0,
            f"matrix products: {rate / 1e9:.0f} of {best / 1e9:.0f} GFLOP/s of this machine's best "
            f"({rate / best:.0%})",
            distinct_first_codes_a_user=nodes / users,
            peer_distinct_items_a_user=_distinct(written, users),
            our_distinct_items_a_user=_distinct(found["ours"], users),
            our_peak_mib=_mib(timing.our_peak),
            peer_peak_mib=_mib(timing.peer_peak),
        )
    ]


def one_user(quick: bool) -> list[Result]:
    """30 distinct candidates for one user: draws without replacement against a constrained beam of 30."""
    model = world.smollm2()
    peer, trie = world.causal_lm(model), world.dict_trie(model)
    prompts, asked = world.random_prompts(1, PROMPT), world.requests(1)
    tokens = torch.tensor(prompts)

    def ours() -> None:
        assert len(draws.distinct(world.session(model, prompts), asked, DRAWS, seed=0)[0][0]) == DRAWS

    def theirs() -> None:
        found = peer.generate(
            tokens, attention_mask=torch.ones_like(tokens), num_beams=DRAWS, num_return_sequences=DRAWS,
            max_new_tokens=3, min_new_tokens=3, eos_token_id=None, do_sample=False,
            prefix_allowed_tokens_fn=world.allowed_tokens(trie, PROMPT),
        )  # fmt: skip
        assert len(found) == DRAWS

    timing = in_turn(ours, theirs, 2 if quick else 7)
    seconds = median(timing.ours)
    rate = world.flops_a_token(model) * (PROMPT + DRAWS) / seconds
    return [
        timed(
            f"{DRAWS} distinct candidates for one user (latency), SmolLM2-135M, 10k items",
            "transformers generate(num_beams=30, prefix_allowed_tokens_fn) with a dict trie",
            timing,
            8.0,
            f"matrix products on {PROMPT}, then at most {DRAWS} tokens: at least {rate / 1e9:.0f} GFLOP/s",
            our_peak_mib=_mib(timing.our_peak),
            peer_peak_mib=_mib(timing.peer_peak),
        )
    ]


def soft_prefix(quick: bool) -> list[Result]:
    """A beam of 30 with E2P's soft token in front, against the same call without;
    a 32-token profile beside it.
    """
    users = 4 if quick else 16
    model = world.smollm2()
    prompts, profile = world.random_prompts(users, PROMPT), world.random_prompts(users, 32, seed=1)
    norm = float(model.inner.get_input_embeddings().weight.norm(dim=1).mean())
    phi = E2P(120, 142, model.hidden_size, norm).eval().requires_grad_(False)
    vectors = torch.randn(users, 120, generator=torch.Generator().manual_seed(0))

    def plain() -> None:
        draws.beam(world.session(model, prompts), DRAWS, DRAWS)

    def prefixed() -> None:
        soft = phi(vectors)
        draws.beam(world.session(model, [[PREFIX, *p] for p in prompts], Condition(soft)), DRAWS, DRAWS)

    def profiled() -> None:
        draws.beam(
            world.session(model, [[*a, *b] for a, b in zip(profile, prompts, strict=True)]), DRAWS, DRAWS
        )

    timing = in_turn(prefixed, plain, 5 if quick else 15)
    prompt_context = in_turn(profiled, plain, 2 if quick else 5, warm_up=False)
    return [
        _cost("E2P prefix at inference (time with over without)", timing, 1.03, users,
              "one more token in front"),
        _cost("Prompt Context at inference (32 tokens of profile; time with over without)", prompt_context,
              None, users, "32 more tokens in front"),
    ]  # fmt: skip


def int8_weights(quick: bool) -> list[Result]:
    """The same 30 draws with int8 weights and with float32, and what int8 does to the distribution."""
    users = 8 if quick else 64
    exact, model = world.smollm2(), world.smollm2()
    prompts, asked = world.random_prompts(users, PROMPT), world.requests(users)
    items, before = draws.draw(world.session(exact, prompts), asked, DRAWS, seed=0)
    quantise(model)
    flat = [prompt for prompt in prompts for _ in range(4)]
    after = scoring.log_probs(model, flat, items[:, :4].reshape(-1))[:, 0]
    ratio = after - before[:, :4].reshape(-1)

    def ours() -> None:
        draws.draw(world.session(model, prompts), asked, DRAWS, seed=0)

    def theirs() -> None:
        draws.draw(world.session(exact, prompts), asked, DRAWS, seed=0)

    timing = in_turn(ours, theirs, 3 if quick else 7)
    return [
        timed(
            f"int8 weights: {DRAWS} samples × {users} users, SmolLM2-135M",
            "the same with float32 weights",
            timing,
            None,
            "8-bit products without VNNI instructions; down_proj stays float32",
            kl_nats=float((np.expm1(ratio) - ratio).mean()),
        )
    ]


def _cost(name: str, timing: Timing, target: float | None, users: int, why: str) -> Result:
    ratio, spread = timing.share
    return Result(
        name, f"the same beam of 30 for {users} users without it", ratio, spread, target, True,
        median(timing.ours), median(timing.peers), "s", len(timing.ours), why,
    )  # fmt: skip


def _item_numbers(model, tokens: np.ndarray) -> np.ndarray:
    """Items [n] of written token rows [n, L]; a row that is no item is an error."""
    index = {tuple(row): item for item, row in enumerate(model.item_tokens.tolist())}
    return np.array([index[tuple(row)] for row in tokens.tolist()])


def _distinct(items: np.ndarray, users: int) -> float:
    return float(np.mean([len(set(row.tolist())) for row in items.reshape(users, -1)]))


def _mib(peak: int | None) -> float | None:
    return None if peak is None else round(peak / 2**20, 1)
