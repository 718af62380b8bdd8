"""Lists within caps: caps by sets, draws with rejection, and what is searched again wider."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llm.backbone.conditions import Condition
from llm.decoding import draws, lists
from llm.decoding.recommender import SidRecommender
from llm.decoding.scoring import constraints_of
from llm.decoding.session import PromptSession
from llm.prompts.reading import Reading
from recsys.data.caps import Caps
from recsys.recommender import Request
from tests.support.requests import make_requests
from tests.support.slow_references import (
    Prompts,
    closed_by,
    coloured,
    inputs,
    session_of,
    slow_by_node,
    slow_distribution,
)

# -- caps from one prompt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_caps_that_never_bind_change_nothing(tiny, temperature):
    requests, loose = make_requests(6), Caps(coloured(), {"colour": 30})
    prompts, soft = inputs(tiny, requests, True)
    found = lists.from_one_prompt(
        session_of(tiny, requests, prompts, soft), requests, 9, loose, 5, temperature, 30
    )
    session = session_of(tiny, requests, prompts, soft)
    plain = (
        draws.distinct(session, requests, 9, 5, temperature) if temperature else draws.beam(session, 9, 30)
    )
    for one, (items, scores) in zip(found, plain, strict=True):
        assert one.finished
        assert one.items.tolist() == items.tolist()
        np.testing.assert_allclose(one.scores, scores, rtol=1e-5)


@pytest.mark.parametrize("width", [8, 30])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("limits", [{"colour": 1}, {"colour": 2, "half": 4}])
def test_a_capped_list_is_the_whole_list_walked_down(tiny, limits, temperature, width):
    """Also where the search is narrow and goes on among what still fits; what it leaves unfinished is a head."""
    requests, catalogue = make_requests(6), coloured()
    prompts, soft = inputs(tiny, requests, True)
    caps = Caps(catalogue, limits)
    session = session_of(tiny, requests, prompts, soft)
    found = lists.from_one_prompt(session, requests, 8, caps, 5, temperature, width)
    whole = (
        draws.distinct(session, requests, 30, 5, temperature) if temperature else draws.beam(session, 30, 30)
    )
    for row, (items, scores) in enumerate(whole):
        walked: list[int] = []
        for item in items.tolist():
            if len(walked) < 8 and item not in closed_by(catalogue, limits, walked):
                walked.append(item)
        ours = found[row].items.tolist()
        assert ours == walked[: len(ours)]
        np.testing.assert_allclose(found[row].scores, scores[np.isin(items, ours)], rtol=1e-4)
        left = set(range(30)) - closed_by(catalogue, limits, ours) - set(requests[row].exclude.tolist())
        assert len(ours) == len(walked) or not found[row].finished or not left
        assert all(item not in closed_by(catalogue, limits, ours[:k]) for k, item in enumerate(ours))
    if width == 30:
        assert all(one.finished for one in found)


def test_a_search_that_proves_too_little_is_made_again_wider(tiny, monkeypatch):
    """With two nodes a level: what stays unfinished is asked for with more, and the lists are the same."""
    requests = [Request(f"r{user}", user, 5) for user in range(60)]
    prompts, _ = inputs(tiny, requests, False)
    recommender = SidRecommender("lists", Reading(tiny, Prompts(prompts)))
    caps = Caps(coloured(), {"half": 1})
    wide = recommender.playlist(requests, 2, 1.0, 3, caps=caps)
    calls: list[tuple[int, int]] = []
    plain = lists.from_one_prompt

    def counted(session, some, *rest):
        calls.append((len(some), rest[-1]))
        return plain(session, some, *rest)

    monkeypatch.setattr(lists, "from_one_prompt", counted)
    monkeypatch.setattr(SidRecommender, "_nodes", staticmethod(lambda n: 2))
    narrow = recommender.playlist(requests, 2, 1.0, 3, caps=caps)
    assert [width for _, width in calls] == [2, 8]
    assert 5 < calls[1][0] < 60  # only those that need it
    for one, other in zip(narrow, wide, strict=True):
        assert one.items.tolist() == other.items.tolist()
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


def test_pairs_within_caps_follow_draws_with_rejection(tiny):
    """P(i, j) = p_i · p_j / Σ p of what fits after i, by enumeration, against 4,000 requests' lists."""
    base, catalogue = make_requests(1, exclude=21)[0], coloured()
    requests = [Request(f"q{index}", 0, 7, exclude=base.exclude) for index in range(4000)]
    prompts, _ = inputs(tiny, requests, False)
    p = slow_distribution(tiny, prompts[0], None, base.exclude, 1.0)
    for limits in ({"colour": 1}, {}):
        session = session_of(tiny, requests, prompts, None)
        found = lists.from_one_prompt(session, requests, 2, Caps(catalogue, limits), 11, 1.0, 3)
        drawn = [tuple(one.items.tolist()) for one in found if one.finished]
        if not all(one.finished for one in found):
            again = [row for row, one in enumerate(found) if not one.finished]
            some = [requests[row] for row in again]
            wide = session_of(tiny, some, [prompts[row] for row in again], None)
            drawn += [
                tuple(one.items.tolist())
                for one in lists.from_one_prompt(wide, some, 2, Caps(catalogue, limits), 11, 1.0, 30)
            ]
        expected: dict[tuple, float] = {}
        for i in np.flatnonzero(p):
            fits = [j for j in np.flatnonzero(p) if j not in closed_by(catalogue, limits, [i])]
            for j in fits:
                expected[int(i), int(j)] = p[i] * p[j] / p[fits].sum()
            if not fits:
                expected[(int(i),)] = p[i]
        observed = np.array([drawn.count(cell) for cell in expected])
        assert observed.sum() == 4000
        values = np.array(list(expected.values()))
        large = values * 4000 >= 5
        observed = np.append(observed[large], observed[~large].sum())
        values = np.append(values[large], values[~large].sum())
        keep = values > 0
        assert stats.chisquare(observed[keep], 4000 * values[keep] / values.sum()).pvalue > 1e-3


def test_excluding_nodes_is_not_rejection(tiny):
    """Why caps are walked and not excluded: after the likeliest item, the two give the others other probabilities."""
    request = make_requests(1)[0]
    prompts, _ = inputs(tiny, [request], False)
    p = slow_by_node(tiny, prompts[0], None, request.exclude, 1.0)
    first = int(p.argmax())
    rejected = p / (1 - p[first])
    rejected[first] = 0
    by_node = slow_by_node(tiny, prompts[0], None, np.append(request.exclude, first), 1.0)
    assert by_node.sum() == pytest.approx(1, abs=1e-6) == rejected.sum()
    assert np.abs(by_node - rejected).max() > 0.01


def test_lists_end_where_nothing_is_left(tiny):
    catalogue = coloured()
    requests = [
        Request("none", 1, 1, exclude=np.arange(30)),
        Request("two", 2, 1, exclude=np.arange(28)),
        Request("all", 3, 1),
        Request("these", 4, 1, allow=np.array([3, 4, 5, 5])),
    ]
    prompts, _ = inputs(tiny, requests, False)
    session = PromptSession(tiny, prompts, Condition(), constraints_of(tiny.trie, requests))
    for temperature in (0.0, 1.0):
        found = lists.in_sequence(session, requests, 40, 1, temperature)
        assert [len(items) for items, _ in found] == [0, 2, 30, 3]
        assert sorted(found[2][0].tolist()) == list(range(30))
        assert sorted(found[3][0].tolist()) == [3, 4, 5]
        caps = Caps(catalogue, {"half": 2})
        for answers in (
            [items for items, _ in lists.in_sequence(session, requests, 40, 1, temperature, caps)],
            [one.items for one in lists.from_one_prompt(session, requests, 40, caps, 1, temperature, 40)],
        ):
            assert [len(items) for items in answers] == [0, 2, 4, 2]
