"""`recommend` at its edges: each odd request has a stated result. And the ways to make a list, on a whole small run."""

from __future__ import annotations

import json
import time
from collections import Counter

import numpy as np
import pytest

import serving
from recsys.data.caps import Caps
from semantic_ids.constraints import Constraints
from serving.answering.requests import answer, request_of
from tests.support.command_line import prelude
from tests.support.contract import check_lists_contract, contract_requests

KIND = {"kind": 3}  # the small run's items are of two kinds, half of the 60 each


WAYS = [
    {},
    {"temperature": 1.0},
    {"sequence": True},
    {"sequence": True, "temperature": 1.0},
    {"caps": {"kind": 40}},
    {"sequence": True, "caps": {"kind": 40}, "temperature": 0.7, "order": "smooth"},
]


@pytest.fixture(scope="module")
def recommender(small_run):
    return serving.Recommender.load(small_run[1].path)


def ids(found) -> list[str]:
    return [item.item_id for item in found]


# -- malformed requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is 0; ask for at least one item"),
        ({"n": -3}, "n is -3; ask for at least one item"),
        ({"n": 2.5}, "n is 2.5; expected a whole number"),
        ({"n": "10"}, "n is '10'; expected a whole number"),
        ({"n": True}, "n is True"),
        ({"n": None}, "n is None"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"strength": 2}, "strength is 2"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"method": "magic"}, "no method 'magic'; it has popularity"),
        ({"exclude": ["i3", True]}, r"exclude\[1\]: id True is a truth value"),
        ({"history": [["i3"]]}, r"history\[0\]: id \['i3'\] is a list"),
        ({"exclude": "i3"}, "exclude is the text 'i3'; expected a list"),
        ({"time": 5.5}, "time is 5.5; expected whole Unix seconds"),
        ({"time": "now"}, "time is 'now'"),
        ({"time": -1}, "time is -1"),
        ({"time": 1_700_000_000_000}, "not milliseconds"),
        ({"query": 7}, "query is 7; expected text"),
        ({"query": b"odd"}, "query is b'odd'; expected text"),
        ({"query": "od\ud800d"}, r"query: character 3 is half of a surrogate pair \(U\+D800\)"),
        ({"query": "\udcff"}, r"character 1 .* \(U\+DCFF\)"),
        ({"caps": {"mood": 2}}, "column 'mood'; this catalogue has kind"),
        ({"caps": {"kind": 0}}, r"caps\['kind'\] is 0"),
        ({"caps": 3}, "caps is 3; expected columns"),
        ({"order": "random"}, "order is 'random'; expected one of 'as made', 'smooth', 'score'"),
        ({"sequence": True, "method": "popularity"}, "Popularity ranks items one by one"),
        ({"sequence": True, "method": "embedding_retrieval"}, "makes no list in sequence"),
    ],
)
def test_a_malformed_request_is_refused_by_name(recommender, options, message):
    with pytest.raises(ValueError, match=message):
        recommender.recommend("u0", **options)


def test_numbers_of_numpy_and_names_of_other_types_are_fine(recommender):
    plain = recommender.recommend("u0", n=3, time=1_010_000, temperature=1.0)
    numpy = recommender.recommend(
        "u0", n=np.int64(3), time=np.int64(1_010_000), temperature=np.float64(1), seed=np.int32(0)
    )
    assert ids(numpy) == ids(plain)
    assert len(recommender.recommend(42, n=3)) == 3  # an id that nobody has


# -- users whom the run does not know ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", WAYS)
def test_a_stranger_is_answered_by_no_context(recommender, options):
    for user in ("nobody", None, ""):
        found = recommender.recommend(user, "odd", 5, **options)
        plain = recommender.recommend(user, "odd", 5, method="no_context", **options)
        assert ids(found) == ids(plain)
        assert found.path == f"cold start (user {user!r} is unknown to the run): No Context"


# -- queries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("blank", ["", "   ", "\t\n\r ", "\u00a0\u2003"])
def test_a_blank_query_is_no_query(recommender, options, blank):
    assert recommender.recommend("u1", blank, 6, **options) == recommender.recommend("u1", n=6, **options)


def test_white_space_between_and_around_words_says_nothing(recommender):
    assert recommender.recommend("u1", "  odd\n\teven ", 6) == recommender.recommend("u1", "odd even", 6)


def test_a_long_query_is_cut_to_its_first_tokens_and_takes_no_longer(recommender, small_run):
    """The tiny backbone's tokens are bytes: of "Query: xxx…" the first 64 are read."""
    config = small_run[0].adapt.prompts
    query = "odd " * 2500
    assert len(query) == 10_000
    for options in WAYS:
        long = recommender.recommend("u1", query, 5, **options)
        assert long == recommender.recommend("u1", query[: config.query_tokens], 5, **options)
        assert long != recommender.recommend("u1", n=5, **options)
    builder = recommender.methods.world.builder
    assert len(builder.asked(query)) == len(builder.asked(query[: config.query_tokens]))
    recommender.recommend("u1", "odd", 5)
    started = time.perf_counter()
    for _ in range(5):
        recommender.recommend("u1", query, 5)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("options", WAYS[2:4])
@pytest.mark.parametrize(
    "query",
    [
        "موسيقى هادئة للعمل",
        "适合写代码的欢快歌曲",
        "軽い喜劇",
        "лёгкая комедия",
        "आराम का संगीत",
        "🎬🎶👩‍👩‍👧‍👦",
        "e\u0301te\u0301 a\u0300\u0316\u0317",  # combining marks
        "\u202eyllaer\u202c \u200fשלום",  # overrides of direction
        "a\x00b\x07\x1b[31m\x7f\u0085c",  # NUL, bell, escapes
        "\ufeff\ufffe\U0010ffff",  # a byte-order mark, what is no character
    ],
)
def test_a_query_in_any_script_is_answered(recommender, query, options):
    found = recommender.recommend("u1", query, 4, **options)
    assert len(set(ids(found))) == 4
    assert found == recommender.recommend("u1", query, 4, **options)


# -- more than there is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", WAYS)
def test_more_than_there_is_gives_all_that_is_available_once(recommender, options):
    everything = recommender.recommend("u0", n=1000, **options)
    assert sorted(ids(everything)) == sorted(f"i{item}" for item in range(60))
    some = recommender.recommend(
        "u0", n=1000, allow=["i1", "i2", "i3", "i3"], exclude=["i2", "i9"], **options
    )
    assert sorted(ids(some)) == ["i1", "i3"]
    nothing = recommender.recommend("u0", n=5, allow=["i1"], exclude=["i1"], **options)
    assert ids(nothing) == []
    assert ids(recommender.recommend("u0", n=5, allow=[], **options)) == []


@pytest.mark.parametrize(
    "method", ["popularity", "recency", "item_knn", "embedding_retrieval", "sasrec", "e2p", "tap_per", "p2p"]
)
@pytest.mark.parametrize("user", ["u0", "nobody"])
def test_caps_hold_for_every_method_and_what_fits_is_all_there(recommender, method, user):
    """Three of a kind, of two kinds: six items, however many are asked for; and a ranking is walked down."""
    found = recommender.recommend(user, n=50, method=method, caps=KIND)
    assert Counter(int(item[1:]) % 2 for item in ids(found)) == {0: 3, 1: 3}
    if method in ("popularity", "recency", "item_knn", "embedding_retrieval", "sasrec"):
        walked, counts = [], Counter()
        for item in ids(recommender.recommend(user, n=60, method=method)):
            if counts[int(item[1:]) % 2] < 3:
                walked.append(item)
                counts[int(item[1:]) % 2] += 1
        assert ids(found) == walked
    excluded = ids(found)[:2]
    again = recommender.recommend(user, n=50, method=method, caps=KIND, exclude=excluded)
    assert len(again) == 6
    assert not set(ids(again)) & set(excluded)


# -- the ways to make a list ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["e2p", "oppu_lora", "p2p"])
@pytest.mark.parametrize("in_sequence", [True, False])
def test_contract_of_lists(recommender, method, in_sequence):
    """Prefixes, users' own LoRAs and generated ones hold for the items behind the prompt."""
    built = recommender.method(method)
    check_lists_contract(
        lambda *options: answer(built, *options),
        contract_requests(60),
        60,
        recommender.methods.dataset.catalogue,
        KIND,
        in_sequence,
        longest=9,
        tolerance=1e-4,
    )


@pytest.mark.parametrize("method", ["e2p", "tap_per", "p2p"])
def test_scores_of_a_list_in_sequence_are_its_log_probability(recommender, method):
    """By another road: the items before are put behind the prompt, which is read anew, and the next item is scored."""
    built = recommender.method(method)
    data = recommender.methods.dataset
    asked = [
        request_of(data, recommender.live.histories, user, query)
        for user in ("u0", "u5", "nobody")
        for query in ("odd", None)
    ]
    for limits in ({}, KIND):
        caps = Caps(data.catalogue, limits)
        made = built.playlist(asked, 5, 1.0, 3, True, caps)
        scored = built.list_log_prob(asked, [one.items for one in made], caps=caps)
        for request, one, values in zip(asked, made, scored, strict=True):
            np.testing.assert_allclose(values, one.scores, rtol=1e-4, atol=1e-5)
            placed, condition = built.reading.conditioned(built.reading.prompts([request]), [request])
            counts = caps.start()
            gone: list[int] = []
            for k, item in enumerate(one.items.tolist()):
                longer = [*placed[0], *built.model.item_tokens[one.items[:k]].reshape(-1).tolist()]
                left = Constraints(built.model.trie, [np.array(gone, np.int64)])
                value = built.model.item_log_probs([longer], np.array([item]), condition, left)
                assert value.item() == pytest.approx(values[k], rel=1e-4, abs=1e-5)
                gone += [item, *counts.add(item).tolist()]


def test_a_list_in_sequence_depends_on_what_it_holds_already(recommender):
    """Same request, same noise: the second item in sequence is another one than the second of one prompt, for somebody."""
    apart = [ids(recommender.recommend(f"u{user}", n=6)) for user in range(8)]
    in_turn = [ids(recommender.recommend(f"u{user}", n=6, sequence=True)) for user in range(8)]
    assert [one[0] for one in apart] == [one[0] for one in in_turn]
    assert apart != in_turn


def test_a_call_leaves_no_trace_in_the_next(recommender):
    """Prompts stay read between calls: what one call read behind them is gone in the next."""
    first = recommender.recommend("u2", n=6, temperature=1.0)
    recommender.recommend("u2", n=6, temperature=1.0, sequence=True)
    recommender.recommend("u2", n=6, temperature=1.0, caps=KIND)
    again = recommender.recommend("u2", n=6, temperature=1.0)
    assert ids(again) == ids(first)
    np.testing.assert_allclose([i.score for i in again], [i.score for i in first], rtol=1e-5)


def test_orders_of_a_list(recommender):
    made = recommender.recommend("u0", n=8, temperature=1.0, sequence=True)
    by_score = recommender.recommend("u0", n=8, temperature=1.0, sequence=True, order="score")
    smooth = recommender.recommend("u0", n=8, temperature=1.0, sequence=True, order="smooth")
    assert sorted(by_score, key=ids_key) == sorted(smooth, key=ids_key) == sorted(made, key=ids_key)
    assert [i.score for i in by_score] == sorted((i.score for i in made), reverse=True)
    assert smooth[0] == made[0]
    vectors = recommender.item_vectors
    place = {item: int(item[1:]) for item in ids(made)}
    numbers = [recommender.methods.dataset.catalogue.index_of(item) for item in place]
    of = dict(zip(place, vectors[numbers], strict=True))
    for k in range(1, 8):
        left = ids(smooth)[k:]
        alike = [float(of[ids(smooth)[k - 1]] @ of[item]) for item in left]  # unit rows
        assert alike[0] == pytest.approx(max(alike), abs=1e-6)


def ids_key(item) -> str:
    return item.item_id


# -- the command line ------------------------------------------------------------------------------------------------------


def test_the_command_makes_lists(small_run, recommender, monkeypatch, capsys):
    path = small_run[1].path
    common = ("recommend", path, "--user", "u4", "--temperature", 1, "--json")
    code, out, err = prelude(
        monkeypatch, capsys, *common, "-n", 9, "--sequence", "--cap", "kind=3", "--order", "score"
    )
    assert code == 0
    items = json.loads(out)["items"]
    expected = recommender.recommend("u4", n=9, temperature=1.0, sequence=True, caps=KIND, order="score")
    assert [item["item_id"] for item in items] == ids(expected)
    assert "6 of 9 items: nothing else is available and fits" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cap", "kind"), "--cap kind: expected a column and a whole number"),
        (("--cap", "kind=few"), "--cap kind=few: expected"),
        (("--cap", "kind=2", "--cap", "kind=3"), "kind is capped twice"),
        (("--cap", "mood=2"), "this catalogue has kind"),
        (("--order", "random"), "random"),
        (("--sequence", "--method", "popularity"), "Popularity ranks items one by one"),
        (("-n", "0"), "at least one item"),
    ],
)
def test_the_command_names_mistakes(small_run, monkeypatch, capsys, options, message):
    code, _, err = prelude(monkeypatch, capsys, "recommend", small_run[1].path, "--user", "u4", *options)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
