"""Drawing and scoring against slow references: one sequence at a time, softmax by hand over a dict of legal codes."""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from scipy import stats

from llm.backbone.conditions import Condition
from llm.decoding import draws, scoring
from recsys.recommender import Request
from tests.support.requests import make_requests
from tests.support.slow_references import chi_square, codes_of, inputs, session_of, slow_distribution


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scoring_equals_the_slow_reference_and_sums_to_one(tiny, with_prefix, temperature):
    requests = make_requests(4)
    prompts, soft = inputs(tiny, requests, with_prefix)
    n = tiny.trie.n_items
    for row, request in enumerate(requests):
        expected = slow_distribution(tiny, prompts[row], None if soft is None else soft[row : row + 1],
                                     request.exclude, temperature)  # fmt: skip
        ours = np.exp(scoring.log_probs(
            tiny, [prompts[row]] * n, np.arange(n),
            Condition(None if soft is None else soft[row : row + 1].expand(n, -1, -1)),
            (temperature,), [request] * n, budget=3_000_000,
        ))[:, 0]  # fmt: skip
        np.testing.assert_allclose(ours, expected, atol=1e-6)
        assert ours.sum() == pytest.approx(1.0, abs=1e-5)
        assert (ours[request.exclude] == 0).all()


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_iid_draws_follow_the_softmax_inside_the_trie(tiny, with_prefix, temperature):
    requests = make_requests(3)
    prompts, soft = inputs(tiny, requests, with_prefix)
    items, values = draws.draw(session_of(tiny, requests, prompts, soft), requests, 6000, 5, temperature)
    for row, request in enumerate(requests):
        expected = slow_distribution(tiny, prompts[row], None if soft is None else soft[row : row + 1],
                                     request.exclude, temperature)  # fmt: skip
        np.testing.assert_allclose(np.exp(values[row]), expected[items[row]], rtol=1e-4)
        counts = np.bincount(items[row], minlength=len(expected))
        assert (counts[request.exclude] == 0).all()
        assert chi_square(counts, 6000 * expected) > 1e-3


def test_the_chi_square_test_would_notice_a_mask_applied_after_the_softmax(tiny):
    """The same counts tested against a distribution whose temperature is applied twice must be refused."""
    requests = make_requests(1)
    prompts, _ = inputs(tiny, requests, False)
    items, _ = draws.draw(session_of(tiny, requests, prompts, None), requests, 6000, seed=5)
    wrong = slow_distribution(tiny, prompts[0], None, requests[0].exclude, 0.6)
    counts = np.bincount(items[0], minlength=len(wrong))
    assert stats.chisquare(counts[wrong > 0], 6000 * wrong[wrong > 0] / wrong.sum()).pvalue < 1e-6


def test_draws_depend_on_the_request_alone(tiny):
    requests = make_requests(9)
    prompts, soft = inputs(tiny, requests, True)
    together, _ = draws.draw(session_of(tiny, requests, prompts, soft), requests, 40, seed=2)
    order = [4, 0, 8, 2, 6, 1, 3, 5, 7]
    shuffled = [requests[index] for index in order]
    again, _ = draws.draw(
        session_of(tiny, shuffled, [prompts[i] for i in order], soft[order]), shuffled, 40, seed=2
    )
    assert (again == together[order]).all()
    for row, request in enumerate(requests):
        alone, _ = draws.draw(
            session_of(tiny, [request], [prompts[row]], soft[row : row + 1]), [request], 10, seed=2
        )
        assert (alone[0] == together[row, :10]).all()


def test_gumbel_top_k_has_the_inclusion_probabilities_of_sampling_without_replacement(tiny):
    """Ordered pairs of 2 draws: P(i, j) = p_i · p_j / (1 − p_i), by enumeration, against 4,000 requests' draws."""
    base = make_requests(1, exclude=22)[0]
    requests = [Request(f"q{index}", 0, 7, exclude=base.exclude) for index in range(4000)]
    prompts, _ = inputs(tiny, requests, False)
    p = slow_distribution(tiny, prompts[0], None, base.exclude, 1.0)
    whole = slow_distribution(tiny, prompts[0], None, base.exclude[:0], 1.0)
    session = session_of(tiny, requests, prompts, None)
    pairs: dict = {}
    for items, values in draws.distinct(session, requests, 2, seed=11):
        assert len(set(items.tolist())) == 2
        np.testing.assert_allclose(np.exp(values), whole[items], rtol=1e-4)
        pairs[tuple(items.tolist())] = pairs.get(tuple(items.tolist()), 0) + 1
    live = np.flatnonzero(p)
    cells = list(itertools.permutations(live.tolist(), 2))
    expected = np.array([p[i] * p[j] / (1 - p[i]) for i, j in cells])
    observed = np.array([pairs.get(cell, 0) for cell in cells])
    assert expected.sum() == pytest.approx(1, abs=1e-4)
    large = expected * 4000 >= 5
    observed = np.append(observed[large], observed[~large].sum())
    expected = np.append(expected[large], expected[~large].sum())
    assert stats.chisquare(observed, 4000 * expected / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("with_prefix", [False, True])
def test_a_wide_beam_is_brute_force(tiny, with_prefix):
    requests = make_requests(4)
    prompts, soft = inputs(tiny, requests, with_prefix)
    found = draws.beam(session_of(tiny, requests, prompts, soft), 10, 30)
    for row, (items, scores) in enumerate(found):
        p = slow_distribution(tiny, prompts[row], None if soft is None else soft[row : row + 1],
                              requests[row].exclude, 1.0)  # fmt: skip
        assert items.tolist() == np.argsort(-p, kind="stable")[:10].tolist()
        ratio = np.exp(scores) / p[items]  # scores are of the whole catalogue
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_exclusions_that_empty_subtrees_or_everything(tiny):
    codes = codes_of(tiny)[:, 0]
    whole = np.flatnonzero(codes == codes[0])  # every item below one first code
    requests = [
        Request("a", 1, 1, exclude=whole),
        Request("b", 2, 1, exclude=np.arange(30)),
        Request("c", 3, 1, exclude=np.arange(29)),
    ]
    prompts, _ = inputs(tiny, requests, False)
    session = session_of(tiny, requests, prompts, None)
    items, values = draws.draw(session, requests, 50, seed=1)
    assert not np.isin(items[0], whole).any()
    assert (items[1] == -1).all()
    assert np.isneginf(values[1]).all()
    assert (items[2] == 29).all()
    assert values[2] == pytest.approx(0)
    lists = draws.distinct(session, requests, 40, seed=1)
    assert [len(found) for found, _ in lists] == [30 - len(whole), 0, 1]
    assert sorted(lists[0][0].tolist()) == sorted(set(range(30)) - set(whole.tolist()))
    nothing = draws.draw(session_of(tiny, requests[1:2], prompts[1:2], None), requests[1:2], 5, seed=1)[0]
    assert (nothing == -1).all()


def test_one_session_answers_everything_as_fresh_ones_do_and_forwards_no_node_twice(tiny, monkeypatch):
    requests = [*make_requests(4), Request("empty", 9, 1, exclude=np.arange(30))]
    prompts, soft = inputs(tiny, requests, True)
    seen = []
    forward = tiny.node_hidden

    def counted(tokens, positions, layout, memory, sees, condition):
        seen.append(len(tokens))
        return forward(tokens, positions, layout, memory, sees, condition)

    monkeypatch.setattr(tiny, "node_hidden", counted)
    kept = session_of(tiny, requests, prompts, soft)
    targets = np.array([0, 7, int(requests[2].exclude[0]), 29, 3])
    calls = [
        lambda s: draws.draw(s, requests, 25, 1, 0.7),
        lambda s: [np.concatenate(pair) for pair in draws.distinct(s, requests, 25, 1, 1.3)],
        lambda s: draws.draw(s, requests, 25, 2, 1.0),
        lambda s: [np.concatenate(pair) for pair in draws.beam(s, 8, 25)],
        lambda s: draws.score(s, targets, (1.0, 0.5)),
    ]
    for call in calls:
        for ours, fresh in zip(call(kept), call(session_of(tiny, requests, prompts, soft)), strict=True):
            np.testing.assert_allclose(ours, fresh, rtol=1e-4, atol=1e-5)
    reads = tiny.head.reads_nodes
    together = sum(len(known.keys) for known in kept.nodes.known) if reads else 0
    seen.clear()
    again = session_of(tiny, requests, prompts, soft)
    for call in calls:
        call(again)
    assert sum(seen) == together
    if reads:
        assert len(set(again.nodes.known[1].keys.tolist())) == len(again.nodes.known[1].keys)


def test_scoring_on_a_session_is_scoring(tiny):
    requests = [*make_requests(4), Request("empty", 9, 1, exclude=np.arange(30))]
    prompts, soft = inputs(tiny, requests, True)
    items = np.array([0, 7, int(requests[2].exclude[0]), 29, 3])
    expected = scoring.log_probs(tiny, prompts, items, Condition(soft), (1.0, 0.4), requests)
    ours = draws.score(session_of(tiny, requests, prompts, soft), items, (1.0, 0.4))
    assert np.isneginf(ours[[2, 4]]).all()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_session_forgets_old_nodes_before_they_outgrow_their_share(tiny):
    requests = make_requests(3, exclude=0)
    prompts, _ = inputs(tiny, requests, False)
    session = session_of(tiny, requests, prompts, None)
    for seed in range(40):
        draws.draw(session, requests, 2, seed)
        assert session.memory.used - session.width <= (4 + 2) * 2


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("distinct_values", [3, 1_000_000])
def test_the_best_of_each_row_are_those_of_a_whole_sort(ascending, distinct_values):
    generator = np.random.default_rng(distinct_values)
    for size in (0, 1, 40, 300):
        row = generator.integers(0, 7, size)
        row, value = np.sort(row) if ascending else row, generator.integers(0, distinct_values, size) / 7
        for k in (1, 5, 400):
            best, others = draws.best_of_each_row(torch.from_numpy(row), torch.from_numpy(value), 9, k)
            order = np.lexsort((np.arange(size), -value, row))
            place = np.arange(size) - np.searchsorted(row[order], row[order])
            assert best.tolist() == order[place < k].tolist()
            assert sorted(others.tolist()) == sorted(order[place >= k].tolist())


def test_a_session_goes_when_nobody_holds_it(tiny):
    """Keys and values are the most of what decoding takes, and Python looks for circles by their number, not by their bytes."""
    requests = make_requests(3)
    prompts, _ = inputs(tiny, requests, False)
    gc.disable()
    try:
        session = session_of(tiny, requests, prompts, None)
        draws.distinct(session, requests, 5, 1)
        gone = weakref.ref(session.memory)
        del session
        assert gone() is None
    finally:
        gc.enable()
