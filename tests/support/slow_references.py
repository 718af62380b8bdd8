"""Slow references of decoding: one sequence at a time, softmax by hand over a dict of legal codes, lists by plain forward passes."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats

from llm.backbone.conditions import Condition
from llm.backbone.vocabulary import PREFIX
from llm.decoding.session import PromptSession
from recsys.data.catalogue import Catalogue
from recsys.recommender import Request
from semantic_ids.constraints import Constraints


def slow_distribution(model, prompt, prefix, excluded, temperature) -> np.ndarray:
    """p [N] by plain loops: no padding, no cache, no batch, no trie. What is excluded is taken out of the whole."""
    p = slow_by_node(model, prompt, prefix, np.zeros(0, np.int64), temperature)
    p[excluded] = 0
    return p / p.sum() if p.sum() else p


def slow_by_node(model, prompt, prefix, excluded, temperature) -> np.ndarray:
    """The same, with the probability of what is excluded going to its siblings, node by node."""
    codes = codes_of(model)
    allowed = [item for item in range(len(codes)) if item not in set(excluded.tolist())]
    result = np.zeros(len(codes))
    memo: dict = {}
    for item in allowed:
        total = 0.0
        for level in range(codes.shape[1]):
            before = tuple(codes[item, :level])
            if before not in memo:
                memo[before] = slow_logits(model, prompt, prefix, before) / temperature
            legal = {codes[other, level] for other in allowed if tuple(codes[other, :level]) == before}
            normaliser = math.log(sum(math.exp(memo[before][code]) for code in legal))
            total += memo[before][codes[item, level]] - normaliser
        result[item] = math.exp(total)
    return result


def codes_of(model) -> np.ndarray:
    """[N, L], by walking up from each leaf."""
    trie = model.trie
    rows = []
    for item in range(trie.n_items):
        node, row = int(trie.item_leaf[torch.tensor([item])]), []
        for level in reversed(range(trie.n_levels)):
            row.insert(0, int(trie.code[level][torch.tensor([node])]))
            node = int(trie.parent[level][torch.tensor([node])])
        rows.append(row)
    return np.array(rows)


@torch.no_grad()
def slow_logits(model, prompt, prefix, before: tuple[int, ...]) -> np.ndarray:
    """Logits over the codes of the level after the codes `before`: one plain forward pass, and the head by hand."""
    rows, level = model.rows, len(before)
    read = [model.text_size + int(rows.offsets[at]) + int(code) for at, code in enumerate(before)]
    embeds = model.embed(model.pack([[*prompt, *(read if model.head.reads_nodes else [])]]), prefix)
    x = model.inner(inputs_embeds=embeds[None]).last_hidden_state[0, -1]
    if not model.head.reads_nodes and level:
        head = model.head
        x = _rms(x) * head.norm
        for at, code in enumerate(before):
            x = x + head.codes[int(rows.offsets[at]) + int(code)]
        for block in head.blocks[level - 1]:
            n = _rms(x) * block.norm
            gate = block.gate.weight @ n
            x = x + block.down.weight @ (gate * torch.sigmoid(gate) * (block.up.weight @ n))
    logits = (x @ rows.output.T).double().numpy()[rows.offsets[level] : rows.offsets[level + 1]]
    asks = None if model.head.reads_nodes else model.head.asks
    if asks is not None and level == len(rows.sizes) - 1:
        query = (asks.query.weight @ (_rms(x) * asks.norm)).double().numpy()
        for item, codes in enumerate(codes_of(model)):
            if tuple(codes[:level]) == tuple(before):
                logits[codes[level]] += query @ asks.items.vectors[item].double().numpy()
    return logits


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean() + 1e-6).sqrt()


def inputs(model, requests: list[Request], with_prefix: bool):
    prompts = [
        ([PREFIX] if with_prefix else [])
        + [256, 65, 66]
        + model.item_tokens[request.history].reshape(-1).tolist()
        for request in requests
    ]
    soft = (
        torch.randn(len(requests), 1, 64, generator=torch.Generator().manual_seed(0)) if with_prefix else None
    )
    return prompts, soft


def session_of(model, requests, prompts, soft):
    exclusions = Constraints(model.trie, [request.exclude for request in requests])
    return PromptSession(model, prompts, Condition(soft), exclusions)


COLOURS = ["red", "green", "blue", "grey"]


def coloured(n: int = 30) -> Catalogue:
    """Items of one or two colours each; every seventh has none."""
    generator = np.random.default_rng(4)
    colours = [
        []
        if item % 7 == 6
        else sorted(generator.choice(COLOURS, generator.integers(1, 3), replace=False).tolist())
        for item in range(n)
    ]
    ids = np.array([f"i{item}" for item in range(n)], dtype=object)
    return Catalogue(ids, ids.tolist(), {"colour": colours, "half": [[str(i // 15)] for i in range(n)]})


def closed_by(catalogue: Catalogue, limits: dict[str, int], items) -> set[int]:
    """Items that cannot follow `items`: by counting, apart from the code under test."""
    closed = set(map(int, items))
    for column, limit in limits.items():
        values = catalogue.columns[column]
        for value in {value for some in values for value in some}:
            if sum(value in values[item] for item in items) >= limit:
                closed |= {item for item in range(len(values)) if value in values[item]}
    return closed


def slow_next(model, prompt, soft, excluded, before, closed, temperature=1.0) -> np.ndarray:
    """p [N] of the item after `before`, node by node: a plain forward pass over the prompt and their codes."""
    longer = [*prompt, *model.item_tokens[list(before)].reshape(-1).tolist()]
    return slow_by_node(model, longer, soft, np.array(sorted({*excluded.tolist(), *closed})), temperature)


def rows_of(soft, row):
    return None if soft is None else soft[row : row + 1]


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """p of counts [N] against expected ones [N]; cells with fewer than 5 expected are taken together."""
    large = expected >= 5
    observed = np.append(counts[large], counts[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum())
    keep = wanted > 0
    assert observed[~keep].sum() == 0
    if keep.sum() < 2:
        return 1.0
    return float(stats.chisquare(observed[keep], wanted[keep] * observed.sum() / wanted.sum()).pvalue)


class Prompts:
    """Prompts that are there already, of users 0, 1, …"""

    def __init__(self, prompts):
        self.prompts = prompts

    def prompt(self, request: Request, context=None) -> list[int]:
        return self.prompts[request.user]
