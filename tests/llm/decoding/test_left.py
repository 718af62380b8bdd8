"""What exclusions leave: p restricted to what is available and renormalised, by brute force over a small trie."""

from __future__ import annotations

import numpy as np
import pytest

from llm.backbone.conditions import Condition
from llm.decoding import draws, left, scoring
from llm.decoding.recommender import SidRecommender
from llm.decoding.scoring import constraints_of
from llm.decoding.session import PromptSession
from llm.prompts.reading import Reading
from recsys.recommender import Request
from tests.support.requests import make_requests
from tests.support.slow_references import Prompts, chi_square, inputs, slow_by_node, slow_distribution

N = 30


def asked(kind: str) -> list[Request]:
    """Requests that leave out few or many items, allow few or many, or both."""
    generator = np.random.default_rng(3)
    found = []
    for user in range(6):
        some = generator.permutation(N)
        exclude, allow = {
            "few out": (some[:3], None),
            "many out": (some[: 24 + user], None),
            "few allowed": (some[:0], some[: 2 + user]),
            "many allowed": (some[:0], np.repeat(some[: 20 + user], 2)),
            "both": (some[5:12], some[: 10 + 3 * user]),
            "mixed": ((some[:5], None), (some[:0], None), (some[:0], some[:4]), (some[:3], some[:26]))[
                user % 4
            ],
        }[kind]
        found.append(Request(f"r{user}", user, 5, exclude=exclude, allow=allow))
    return found


def available(request: Request) -> np.ndarray:
    """Items, by sets."""
    some = set(range(N)) if request.allow is None else set(request.allow.tolist())
    return np.array(sorted(some - set(request.exclude.tolist())))


def restricted(p: np.ndarray, request: Request) -> np.ndarray:
    result = np.zeros_like(p)
    result[available(request)] = p[available(request)]
    return result / result.sum()


def whole_of(tiny, prompts, soft, temperature) -> list[np.ndarray]:
    """p [N] of each prompt with nothing left out, by plain loops."""
    none = np.zeros(0, np.int64)
    return [
        slow_distribution(tiny, prompt, None if soft is None else soft[row : row + 1], none, temperature)
        for row, prompt in enumerate(prompts)
    ]


def session(tiny, requests, prompts, soft) -> PromptSession:
    return PromptSession(tiny, prompts, Condition(soft), constraints_of(tiny.trie, requests))


KINDS = ["few out", "many out", "few allowed", "many allowed", "both", "mixed"]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_whole_restricted_and_renormalised(tiny, kind, temperature):
    requests = asked(kind)
    prompts, soft = inputs(tiny, requests, True)
    whole = whole_of(tiny, prompts, soft, temperature)
    one = session(tiny, requests, prompts, soft)
    table = np.stack([draws.score(one, np.full(6, item), (temperature,))[:, 0] for item in range(N)], 1)
    np.testing.assert_allclose(
        np.exp(table), [restricted(p, request) for p, request in zip(whole, requests, strict=True)], atol=1e-6
    )
    np.testing.assert_allclose(np.exp(table).sum(1), 1, atol=1e-5)
    packed = scoring.log_probs(tiny, prompts, np.full(6, 7), Condition(soft), (temperature,), requests)[:, 0]
    np.testing.assert_allclose(packed, table[:, 7], atol=1e-5)
    mass = [p[available(request)].sum() for p, request in zip(whole, requests, strict=True)]
    np.testing.assert_allclose(np.exp(one.left(temperature).log_total.numpy()), mass, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_iid_draws_follow_it(tiny, kind):
    requests = asked(kind)[:4]
    prompts, soft = inputs(tiny, requests, True)
    items, values = draws.draw(session(tiny, requests, prompts, soft), requests, 4000, 5, 0.8)
    for row, (p, request) in enumerate(zip(whole_of(tiny, prompts, soft, 0.8), requests, strict=True)):
        expected = restricted(p, request)
        np.testing.assert_allclose(np.exp(values[row]), expected[items[row]], rtol=1e-4)
        counts = np.bincount(items[row], minlength=N)
        assert counts[expected == 0].sum() == 0
        assert chi_square(counts, 4000 * expected) > 1e-3


def test_the_chi_square_test_would_notice_node_by_node_exclusions(tiny):
    request = asked("many out")[:1]
    prompts, _ = inputs(tiny, request, False)
    items, _ = draws.draw(session(tiny, request, prompts, None), request, 4000, 5)
    wrong = slow_by_node(tiny, prompts[0], None, request[0].exclude, 1.0)
    assert chi_square(np.bincount(items[0], minlength=N), 4000 * wrong) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_lists_are_the_whole_ranking_with_what_is_not_available_left_out(tiny, kind):
    requests = asked(kind)
    prompts, soft = inputs(tiny, requests, True)
    found = draws.beam(session(tiny, requests, prompts, soft), 10)
    for (items, scores), p, request in zip(found, whole_of(tiny, prompts, soft, 1.0), requests, strict=True):
        order = np.argsort(-p, kind="stable")
        assert items.tolist() == order[np.isin(order, available(request))][:10].tolist()
        np.testing.assert_allclose(np.exp(scores), p[items], rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_leaving_out_the_first_three_changes_nothing_of_the_next_ten(tiny, temperature):
    """Ranked, and drawn without replacement by the same seed; the scores too. So pages go on where they stopped."""
    requests = [Request(f"r{user}", user, 5) for user in range(40)]
    prompts, _ = inputs(tiny, requests, False)
    recommender = SidRecommender("lists", Reading(tiny, Prompts(prompts)))
    whole = recommender.recommend(requests, 13, temperature, seed=4)
    rest = [
        Request(one.request_id, one.user, one.time, exclude=ranked.items[:3])
        for one, ranked in zip(requests, whole, strict=True)
    ]
    for before, after in zip(whole, recommender.recommend(rest, 10, temperature, seed=4), strict=True):
        assert after.items.tolist() == before.items[3:].tolist()
        assert after.proven
        np.testing.assert_allclose(after.scores, before.scores[3:], rtol=1e-5)
    by_node = 0  # what it was: the mass of what is left out goes to its siblings
    for prompt, before, request in zip(prompts, whole, rest, strict=True):
        order = np.argsort(-slow_by_node(tiny, prompt, None, request.exclude, 1.0), kind="stable")
        by_node += order[:10].tolist() != before.items[3:].tolist()
    assert temperature or by_node > 10


def test_a_score_less_what_is_left_is_the_probability_among_what_is_available(tiny):
    requests = asked("mixed")
    prompts, _ = inputs(tiny, requests, False)
    recommender = SidRecommender("lists", Reading(tiny, Prompts(prompts)))
    log_left = recommender.log_left(requests, 0.7)
    for temperature in (0.7,):
        found = recommender.recommend(requests, 3, temperature, 1)
        first = np.array([one.items[0] for one in found])
        scores = np.array([one.scores[0] for one in found])
        np.testing.assert_allclose(
            recommender.log_prob(requests, first, temperature), scores - log_left, atol=1e-5
        )


def test_what_is_not_affordable_is_said_and_is_node_by_node(tiny, monkeypatch):
    requests = asked("both")
    prompts, soft = inputs(tiny, requests, True)
    touched = left.nodes_of(tiny.trie, requests)
    monkeypatch.setattr(left, "MOST_NODES", int(np.median(touched)))
    one = session(tiny, requests, prompts, soft)
    known = one.left(1.0)
    assert known.by_node.tolist() == (touched > np.median(touched)).tolist()
    assert 0 < known.by_node.sum() < 6
    assert np.isnan(known.log_total.numpy()).tolist() == known.by_node.tolist()
    items = np.array([available(request)[0] for request in requests])
    values = np.exp(draws.score(one, items)[:, 0])
    for row, (p, request) in enumerate(zip(whole_of(tiny, prompts, soft, 1.0), requests, strict=True)):
        out = np.setdiff1d(np.arange(N), available(request))
        by_node = slow_by_node(tiny, prompts[row], soft[row : row + 1], out, 1.0)
        expected = by_node if known.by_node[row] else restricted(p, request)
        assert values[row] == pytest.approx(expected[items[row]], rel=1e-4)
    monkeypatch.setattr(left, "MOST_LEAVES", 0)
    assert left.nodes_of(tiny.trie, requests).tolist() == [0] * 6


def test_a_list_that_a_wider_search_might_change_says_so(tiny, monkeypatch):
    """With few nodes a level as the most there are: what cannot be proven is a beam, and all that is proven is right."""
    requests = make_requests(40, exclude=0)
    prompts, _ = inputs(tiny, requests, False)
    recommender = SidRecommender("lists", Reading(tiny, Prompts(prompts)))
    right = recommender.recommend(requests, 2)
    for module in ("llm.decoding.draws", "llm.decoding.recommender", "llm.decoding.lists"):
        monkeypatch.setattr(f"{module}.BEAM", 2)
        monkeypatch.setattr(f"{module}.MOST", 2)
    monkeypatch.setattr("llm.decoding.recommender.WIDEN", 1)
    tiny.kept_session = None
    found = recommender.recommend(requests, 2)
    proven = [one.proven for one in found]
    assert 0 < sum(proven) < 40
    for one, other in zip(found, right, strict=True):
        assert len(one.items) == 2
        assert not one.proven or one.items.tolist() == other.items.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_narrow_search_is_gone_on_with_until_the_list_is_proven(tiny, monkeypatch, temperature):
    requests = make_requests(40)
    prompts, _ = inputs(tiny, requests, False)
    recommender = SidRecommender("lists", Reading(tiny, Prompts(prompts)))
    right = recommender.recommend(requests, 3, temperature, 2)
    monkeypatch.setattr("llm.decoding.draws.BEAM", 1)
    monkeypatch.setattr("llm.decoding.recommender.BEAM", 1)
    monkeypatch.setattr("llm.decoding.recommender.WIDEN", 2)
    tiny.kept_session = None
    for one, other in zip(recommender.recommend(requests, 3, temperature, 2), right, strict=True):
        assert one.proven
        assert one.items.tolist() == other.items.tolist()
