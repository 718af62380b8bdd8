"""Log-probabilities of items and lists as targets, against a plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llm.align.targets import rotated, target_log_probs
from llm.backbone.conditions import Condition
from llm.backbone.sid_model import SidModel
from llm.decoding.scoring import constraints_of, list_log_probs_of
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.reading import Reading
from recsys.data.catalogue import Catalogue
from semantic_ids.constraints import Constraints
from tests.support.requests import make_requests

# -- lists --------------------------------------------------------------------------------------------------------


def asked(model: SidModel, n: int, prefix: int = 0):
    """Requests, prompts of uneven lengths, and soft tokens in front of some of them."""
    requests = make_requests(n, seed=3)
    builder = PromptBuilder(
        PromptConfig(recent_items=3),
        Catalogue(["x"] * 30, ["x"] * 30, {}),
        model.encode,
        256,
        model.item_tokens,
    )
    prompts = [
        builder.prompt(replace(request, query="q" * (row % 3))) for row, request in enumerate(requests)
    ]
    soft = torch.randn(n, prefix, 64, generator=torch.Generator().manual_seed(2)) if prefix else None
    known = np.arange(n) % 2 == 0
    condition = Condition(soft, known if prefix else None)
    counts = condition.soft_tokens(n) if prefix else [0] * n
    return (
        requests,
        [builder.with_soft_tokens(p, int(c)) for p, c in zip(prompts, counts, strict=True)],
        condition,
    )


def lists_for(requests, length_of=lambda row: 1 + row % 4) -> list[np.ndarray]:
    generator = np.random.default_rng(9)
    return [
        generator.choice(np.setdiff1d(np.arange(30), request.exclude), length_of(row), replace=False)
        for row, request in enumerate(requests)
    ]


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_list_of_one_is_an_item(tiny, prefix):
    requests, prompts, condition = asked(tiny, 6, prefix)
    items = np.array([some[0] for some in lists_for(requests)])
    excluded = [request.exclude for request in requests]
    one = tiny.item_log_probs(prompts, items, condition, constraints_of(tiny.trie, requests))
    torch.testing.assert_close(
        tiny.list_log_probs(prompts, list(items[:, None]), condition, excluded), one, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_list_is_item_after_item(tiny, prefix):
    """Against a plain loop: each item scored alone behind the codes of those before it, which it may not be."""
    requests, prompts, condition = asked(tiny, 6, prefix)
    lists = lists_for(requests)
    ours = tiny.list_log_probs(prompts, lists, condition, [request.exclude for request in requests])
    for row, (request, prompt, items) in enumerate(zip(requests, prompts, lists, strict=True)):
        total, tokens, gone = 0.0, list(prompt), list(request.exclude)
        own = condition.rows(np.array([row]))
        for item in items:
            constraints = Constraints(tiny.trie, [np.array(gone, np.int64)])
            total += float(tiny.item_log_probs([tokens], np.array([item]), own, constraints))
            tokens += tiny.item_tokens[item].tolist()
            gone.append(int(item))
        assert float(ours[row]) == pytest.approx(total, abs=2e-5)


def test_ordered_lists_of_two_sum_to_one(tiny):
    """Over all ordered pairs of what an allow-list leaves, and an item twice has none of it."""
    request = replace(make_requests(1)[0], exclude=np.array([4]), allow=np.array([4, 7, 11, 12, 25]))
    left = [7, 11, 12, 25]
    pairs = [np.array([a, b]) for a in left for b in left]
    values = tiny.list_log_probs(
        [[256, 72]] * len(pairs),
        pairs,
        excluded=[request.exclude] * len(pairs),
        allowed=[request.allow] * len(pairs),
    )
    twice = torch.tensor([a == b for a in left for b in left])
    assert values[twice].isneginf().all()
    assert float(values.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_lists_scored_in_small_batches_are_the_same(tiny):
    requests, _, _ = asked(tiny, 6)
    builder = PromptBuilder(
        PromptConfig(recent_items=3),
        Catalogue(["x"] * 30, ["x"] * 30, {}),
        tiny.encode,
        256,
        tiny.item_tokens,
    )
    reading, lists = Reading(tiny, builder), lists_for(requests)
    whole = list_log_probs_of(reading, requests, lists)
    np.testing.assert_allclose(list_log_probs_of(reading, requests, lists, budget=1), whole, atol=1e-5)
    direct = target_log_probs(reading, requests, lists)
    np.testing.assert_allclose(whole, direct.numpy(), atol=1e-5)


def test_kl_pairs_rotate_the_target_alone_and_make_it_available():
    requests = [replace(one, exclude=np.array([5, 6])) for one in make_requests(3)]
    lists = [np.array([1, 2]), np.array([5]), np.array([3])]
    pairs, moved = rotated(requests, lists)
    assert [items.tolist() for items in moved] == [[3], [1, 2], [5]]
    assert [pair.request_id for pair in pairs] == ["r0", "r1", "r2"]
    assert pairs[0] is requests[0]
    assert pairs[2].exclude.tolist() == [6]  # 5 would have no probability there
    assert requests[2].exclude.tolist() == [5, 6]
