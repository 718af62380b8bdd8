"""Lists made item by item against slow references: every step a plain forward pass over a longer prompt."""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from scipy import stats

from llm.backbone.conditions import Condition, LowRank
from llm.decoding import draws, lists
from llm.decoding.recommender import SidRecommender
from llm.decoding.session import PromptSession
from llm.prompts.reading import Reading
from recsys.data.caps import Caps
from recsys.recommender import Request
from semantic_ids.constraints import Constraints
from semantic_ids.trie import Trie
from tests.support.catalogues import SIZES
from tests.support.requests import make_requests
from tests.support.slow_references import (
    Prompts,
    closed_by,
    coloured,
    inputs,
    rows_of,
    session_of,
    slow_distribution,
    slow_next,
)


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("limits", [{}, {"colour": 2}])
def test_a_drawn_list_has_the_probability_of_plain_forward_passes(tiny, with_prefix, limits):
    requests, catalogue = make_requests(5), coloured()
    prompts, soft = inputs(tiny, requests, with_prefix)
    session, caps = session_of(tiny, requests, prompts, soft), Caps(catalogue, limits)
    found = lists.in_sequence(session, requests, 6, seed=3, temperature=0.7, caps=caps)
    scored = lists.log_prob(session, [items for items, _ in found], 0.7, caps)
    for row, (items, scores) in enumerate(found):
        assert len(items) >= 4
        slow = [
            slow_next(tiny, prompts[row], rows_of(soft, row), requests[row].exclude, items[:k],
                      closed_by(catalogue, limits, items[:k]), 0.7)[items[k]]
            for k in range(len(items))
        ]  # fmt: skip
        np.testing.assert_allclose(np.exp(scores), slow, rtol=1e-4)
        np.testing.assert_allclose(scored[row], scores, rtol=1e-4, atol=1e-6)
        assert np.exp(scored[row].sum()) == pytest.approx(np.prod(slow), rel=1e-4)


def test_ordered_pairs_are_drawn_with_the_probability_of_their_list(tiny):
    """All ordered pairs of 6 items: the probabilities sum to 1, and 5,000 requests' draws follow them."""
    base = make_requests(1, exclude=24)[0]
    pairs = list(itertools.permutations(sorted(set(range(30)) - set(base.exclude.tolist())), 2))
    asked = [base] * len(pairs)
    prompts, _ = inputs(tiny, asked, False)
    logs = lists.log_prob(session_of(tiny, asked, prompts, None), [np.array(pair) for pair in pairs])
    expected = np.exp([values.sum() for values in logs])
    assert expected.sum() == pytest.approx(1, abs=1e-5)
    requests = [Request(f"q{index}", 0, 7, exclude=base.exclude) for index in range(5000)]
    prompts, _ = inputs(tiny, requests, False)
    found = lists.in_sequence(
        session_of(tiny, requests, prompts, None), requests, 2, seed=11, temperature=1.0
    )
    drawn = [tuple(items.tolist()) for items, _ in found]
    observed = np.array([drawn.count(pair) for pair in pairs])
    assert observed.sum() == 5000
    assert stats.chisquare(observed, 5000 * expected / expected.sum()).pvalue > 1e-3
    # what would be drawn if the second item did not know of the first
    p = slow_distribution(tiny, prompts[0], None, base.exclude, 1.0)
    blind = np.array([p[i] * p[j] / (1 - p[i]) for i, j in pairs])
    assert stats.chisquare(observed, 5000 * blind / blind.sum()).pvalue < 1e-6


def test_without_draws_each_item_is_the_most_likely_after_those_before_it(tiny):
    requests, catalogue, limits = make_requests(5), coloured(), {"colour": 2}
    prompts, soft = inputs(tiny, requests, True)
    session = session_of(tiny, requests, prompts, soft)
    found = lists.in_sequence(session, requests, 5, caps=Caps(catalogue, limits))
    for row, (items, scores) in enumerate(found):
        for k, item in enumerate(items):
            p = slow_next(tiny, prompts[row], soft[row : row + 1], requests[row].exclude, items[:k],
                          closed_by(catalogue, limits, items[:k]))  # fmt: skip
            assert p[item] == pytest.approx(p.max(), rel=1e-4)
            assert np.exp(scores[k]) == pytest.approx(p[item], rel=1e-4)


def test_a_session_that_grew_is_taken_back_to_its_prompts(tiny):
    requests = make_requests(4)
    prompts, soft = inputs(tiny, requests, True)
    kept = session_of(tiny, requests, prompts, soft)
    before = draws.draw(kept, requests, 12, seed=1)
    lists.in_sequence(kept, requests, 4, seed=1, temperature=1.0)
    after = draws.draw(kept, requests, 12, seed=1)
    assert (before[0] == after[0]).all()
    np.testing.assert_allclose(before[1], after[1], rtol=1e-5)
    assert kept.width == max(map(len, prompts))


def test_updates_of_layers_hold_for_the_items_behind_the_prompt(tiny):
    """A list under a LoRA of each request's own, against the same list's items as prompts of their own."""
    requests = make_requests(3)
    prompts, _ = inputs(tiny, requests, False)
    name, (n_in, n_out) = next(iter(tiny.updates.layers(["q_proj"]).items()))
    generator = torch.Generator().manual_seed(5)
    update = LowRank(
        torch.randn(3, 2, n_in, generator=generator), torch.randn(3, n_out, 2, generator=generator)
    )
    condition, free = Condition(updates={name: (update,)}), [[]] * 3
    session = PromptSession(tiny, prompts, condition, Constraints(tiny.trie, free))
    found = lists.in_sequence(session, requests, 3, seed=2, temperature=1.0)
    longer = [
        [*prompt, *tiny.item_tokens[items[:2]].reshape(-1).tolist()]
        for prompt, (items, _) in zip(prompts, found, strict=True)
    ]
    gone = Constraints(tiny.trie, [items[:2] for items, _ in found])
    last = np.array([items[2] for items, _ in found])
    with torch.no_grad():
        expected = tiny.item_log_probs(longer, last, condition, gone).numpy()
    np.testing.assert_allclose([scores[2] for _, scores in found], expected, rtol=1e-4)
    with torch.no_grad():
        plain = tiny.item_log_probs(longer, last, Condition(), gone).numpy()
    assert np.abs(plain - expected).max() > 0.01


def test_what_a_session_holds_goes_with_it_and_waits_for_no_collector(tiny):
    """A server that reads prompts all day must not hold those of the last minutes."""
    requests = make_requests(3)
    prompts, _ = inputs(tiny, requests, False)
    session = PromptSession(tiny, prompts, Condition(), Constraints(tiny.trie, [[]] * 3))
    lists.in_sequence(session, requests, 3, seed=2, temperature=1.0)
    session.left(1.0)
    gone = weakref.ref(session)
    gc.collect()
    gc.disable()
    try:
        del session
        assert gone() is None
    finally:
        gc.enable()


def test_an_item_costs_its_nodes_and_the_rest_of_its_codes(tiny, monkeypatch):
    """The prompt is read once; each token of an item is forwarded once: as a node on the way, or behind the prompt."""
    requests = make_requests(6)
    prompts, _ = inputs(tiny, requests, False)
    tokens, prompt_reads = [], []
    forward, read = tiny.node_hidden, tiny.hidden
    monkeypatch.setattr(tiny, "node_hidden", lambda t, *rest: (tokens.append(len(t)), forward(t, *rest))[1])
    monkeypatch.setattr(tiny, "hidden", lambda *a: (prompt_reads.append(1), read(*a))[1])
    session = session_of(tiny, requests, prompts, None)
    lists.in_sequence(session, requests, 5, seed=1, temperature=1.0)
    assert len(prompt_reads) == 1
    width, nodes = tiny.item_tokens.shape[1], tiny.trie.n_levels - 1 if tiny.head.reads_nodes else 0
    # four items were read behind six prompts, and the nodes on the way to the fifth were met
    assert 4 * 6 * width <= sum(tokens) <= 4 * 6 * width + 6 * nodes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_growing_session_keeps_is_what_was_planned(tiny, temperature):
    requests, n = make_requests(6, exclude=0), 25
    prompts, _ = inputs(tiny, requests, False)
    recommender = SidRecommender("lists", Reading(tiny, Prompts(prompts)))
    recommender.playlist(requests, n, temperature, in_sequence=True)
    session = tiny.kept_session[2][2]
    nodes, growth = session.planned
    longest = max(map(len, prompts))
    kept = sum(x.nbytes for pair in session.memory._layers.values() for x in pair)
    grown = 6 * (longest + (n - 1) * tiny.item_tokens.shape[1]) * tiny.footprint.kept
    assert grown < kept <= 6 * tiny.footprint.of(longest + growth, nodes, tiny.trie.n_levels)


def test_lists_depend_on_the_request_alone_and_short_ones_are_heads_of_long_ones(tiny):
    requests, caps = make_requests(7), Caps(coloured(), {"colour": 2})
    prompts, soft = inputs(tiny, requests, True)
    order = [4, 0, 6, 2, 1, 3, 5]

    def made(rows, n, how):
        some = [requests[row] for row in rows]
        session = session_of(tiny, some, [prompts[row] for row in rows], soft[list(rows)])
        return [answer.tolist() for answer in how(session, some, n)]

    ways = {
        "sequence": lambda s, r, n: [x[0] for x in lists.in_sequence(s, r, n, 2, 1.0, caps)],
        "sequence, best": lambda s, r, n: [x[0] for x in lists.in_sequence(s, r, n, caps=caps)],
        "caps": lambda s, r, n: [x.items for x in lists.from_one_prompt(s, r, n, caps, 2, 1.0, 30)],
        "distinct": lambda s, r, n: [x[0] for x in draws.distinct(s, r, n, 2)],
    }
    for name, how in ways.items():
        together = made(range(7), 6, how)
        assert made(order, 6, how) == [together[row] for row in order], name
        for row in range(7):
            alone = made([row], 3, how)[0]
            assert alone == together[row][: len(alone)], name
            assert len(alone) == min(3, len(together[row])), name


def test_scoring_names_what_cannot_be(tiny):
    """An excluded item, a repeated one and one that breaks a cap have probability 0; the rest of the list is scored."""
    requests, catalogue = make_requests(3), coloured()
    prompts, _ = inputs(tiny, requests, False)
    session = session_of(tiny, requests, prompts, None)
    free = [np.setdiff1d(np.arange(30), request.exclude) for request in requests]
    alike = [int(item) for item in free[2] if "red" in catalogue.columns["colour"][item]][:2]
    given = [
        np.array([free[0][0], requests[0].exclude[0], free[0][1]]),
        np.array([free[1][0], free[1][0]]),
        np.array(alike),
    ]
    values = lists.log_prob(session, given, caps=Caps(catalogue, {"colour": 1}))
    assert np.isneginf(values[0]).tolist()[1] is True
    assert np.isneginf(values[1]).tolist() == [False, True]
    assert np.isneginf(values[2]).tolist() == [False, True]
    assert np.isfinite(lists.log_prob(session, given)[2]).all()  # without the cap the pair is possible
    assert lists.log_prob(session, [np.zeros(0, np.int64)] * 3)[0].tolist() == []
    with pytest.raises(ValueError, match="not in the trie"):
        lists.log_prob(session, [np.array([30]), given[1], given[2]])


def test_more_exclusions_are_the_constraints_made_anew():
    generator = np.random.default_rng(8)
    codes = np.stack(np.unravel_index(generator.choice(np.prod(SIZES), 40, replace=False), SIZES), 1)
    trie = Trie(codes, SIZES)
    allowed = [None, np.arange(0, 40, 3), None, np.arange(25)]
    first = [generator.choice(40, 8) for _ in range(4)]
    grown = Constraints(trie, first, allowed)
    for step in range(3):
        more = [generator.choice(40, step * 5) for _ in range(4)]
        rows = torch.from_numpy(np.repeat(np.arange(4), step * 5))
        grown = grown.without(rows, torch.from_numpy(np.concatenate(more).astype(np.int64)))
        first = [np.append(a, b) for a, b in zip(first, more, strict=True)]
        anew = Constraints(trie, first, allowed)
        for ours, theirs in zip(grown.dead, anew.dead, strict=True):
            assert ours.tolist() == theirs.tolist()


def test_the_session_and_the_packed_pass_of_training_give_one_probability(tiny):
    """What is served (`lists.log_prob`, in the tree) is what KTO trains (`SidModel.list_log_probs`, one packed pass)."""
    requests = make_requests(6)
    prompts, soft = inputs(tiny, requests, True)
    generator = np.random.default_rng(2)
    given = [
        generator.permutation(np.setdiff1d(np.arange(30), request.exclude))[: 1 + row % 4]
        for row, request in enumerate(requests)
    ]
    served = lists.log_prob(session_of(tiny, requests, prompts, soft), given)
    trained = tiny.list_log_probs(prompts, given, Condition(soft), [request.exclude for request in requests])
    np.testing.assert_allclose([scores.sum() for scores in served], trained.detach().numpy(), atol=1e-4)
