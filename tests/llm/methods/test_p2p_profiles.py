"""P2P's profiles by hand and from before t only, and caches that change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llm.methods.p2p import profiles
from llm.methods.p2p.profiles import ProfileVectors
from llm.prompts.contexts import Summaries
from recsys.data.dataset import Dataset
from recsys.embeddings.leaks import Events, LeakError, check_planted_answer
from recsys.recommender import Request
from tests.support.profiles import DIM, KINDS, asks, builder, letters, maker
from tests.support.prompts import dataset

# -- profiles ---------------------------------------------------------------------------------------------------


def test_profiles_by_hand():
    request = asks([0, 1, 3, 2, 4], "crime in the snow")  # Dune is shown, and no query word is about it
    assert maker("summary_only").text(request) == "likes Crime; enjoyed Dune; Heat."
    records = maker("retrieved_only").text(request)
    assert records == "Heat (Crime); Fargo (Crime)"  # equal scores: the later first
    both = maker("summary_and_records").text(request)
    assert both == f"likes Crime; enjoyed Dune; Heat. {records}"
    assert maker("summary_and_records", k=0).text(request) == "likes Crime; enjoyed Dune; Heat."
    shuffled = maker("shuffled").text(request)
    assert shuffled != both
    assert sorted(shuffled.split()) == sorted(both.split())
    assert shuffled == maker("shuffled").text(request)
    full = maker("full_history").text(asks([0, 3, 11]))
    assert full == "Cars; Brazil (Comedy); Alien (Horror, Space)"
    assert replace(maker("full_history"), longest=2).text(asks([0, 3, 11])) == "Cars; Brazil (Comedy)"


def test_without_words_the_shown_items_are_the_query_and_no_answer():
    assert maker("retrieved_only", k=1).text(asks([1, 3, 2])) == "Fargo (Crime)"  # like Heat, which is shown
    assert maker("retrieved_only", k=1).text(asks([1, 3, 2], "heat")) == "Heat (Crime)"
    assert maker("retrieved_only").text(asks([1])) is None
    for kind in KINDS:
        assert maker(kind).text(asks([])) is None


def test_a_random_profile_is_another_users_of_the_same_moment():
    data = dataset()
    request = asks([0, 1], user=2, time=12)
    text = maker("random", k=0, data=data).text(request)
    others = {builder().profile(data.before(user, 12)[0]) for user in range(6) if user != 2}
    assert text in others
    assert text == maker("random", k=0, data=data).text(request)
    assert len({maker("random", k=0, data=data).text(replace(request, user=user)) for user in range(6)}) > 1
    assert maker("random", data=data).text(replace(request, time=0)) is None  # nobody has a past yet


def test_a_given_summary_counts_from_its_moment_on(tmp_path):
    data = dataset()
    given = Summaries([(0, 50, "an early one"), (0, 90, "a late one"), (0, 101, "one of the future")])
    assert maker("summary_only", summaries=given).text(asks([1], time=100)) == "a late one"
    assert maker("summary_only", summaries=given).text(asks([1], time=90)) == "a late one"
    assert maker("summary_only", summaries=given).text(asks([1], time=60)) == "an early one"
    assert maker("summary_only", summaries=given).text(asks([1], time=40)) == "likes Crime; enjoyed Fargo."
    keys = {
        maker("summary_only", summaries=given).key(asks([1], time=time)) for time in (40, 60, 89, 90, 100)
    }
    assert len(keys) == 3
    frame = pd.DataFrame({"user_id": ["u0", "u9"], "summary": ["words", "nobody's"], "timestamp": [5, 5]})
    frame.to_parquet(tmp_path / "s.parquet")
    assert Summaries.read(tmp_path / "s.parquet", data).at(0, 5) == "words"
    frame.drop(columns="timestamp").to_parquet(tmp_path / "s.parquet")
    with pytest.raises(ValueError, match="'timestamp' is missing"):
        Summaries.read(tmp_path / "s.parquet", data)
    with pytest.raises(ValueError, match="no such file"):
        Summaries.read(tmp_path / "nothing.parquet", data)


@pytest.mark.parametrize("kind", [*KINDS, "random"])
def test_the_planted_answer_changes_no_profile(kind):
    data = dataset()
    event = next(int(e) for e in data.events(3) if data.history_end[e] - data.offsets[data.users[e]] > 8)
    user, time = int(data.users[event]), int(data.times[event])

    def build(events, strict: bool = True):
        order = np.lexsort((events.times, events.users))
        zeros = np.zeros(len(order))
        made = Dataset(data.user_ids, data.catalogue, events.users[order], events.items[order], events.times[order],
                       zeros.astype(np.float32), zeros.astype(np.int8), data.queries)  # fmt: skip
        history, times = made.before(user, time if strict else time + 1)
        request = Request("r", user, time, history, times)
        texts = maker(kind, data=made)
        own = (
            {"own": history[:1]} if kind == "random" else {}
        )  # the control: its text is of another user's past
        return {"profile": np.array([texts.text(request) or ""]), "key": np.array([texts.key(request)])} | own

    events = Events(data.users, data.items, data.times)
    check_planted_answer(build, events, user, time, int(data.items[event]))
    with pytest.raises(LeakError):
        check_planted_answer(lambda some: build(some, strict=False), events, user, time, 11)


def test_a_cache_changes_no_vector_and_keeps_to_its_budget():
    some = [
        asks([1, 2], "crime"),
        asks([1, 2], "space"),
        asks([0, 4]),
        asks([]),
        asks([1, 2], "crime", user=3),
    ]
    texts = maker("summary_and_records")
    plain = letters([texts.text(one) or "" for one in some])
    vectors = ProfileVectors(texts, letters, DIM, 1 << 20)
    for _ in range(2):
        made, known = vectors.vectors(some)
        assert known.tolist() == [True, True, True, False, True]
        np.testing.assert_array_equal(made.numpy(), plain)
    assert vectors.encoded == 3  # the same past and the same query are the same profile
    small = ProfileVectors(texts, letters, DIM, 2 * (4 * DIM + 128))
    for at in (0, 1, 2, 3, 4, 0, 1, 2, 3, 4):
        np.testing.assert_array_equal(small.vectors([some[at]])[0][0].numpy(), plain[at])
        assert len(small._kept) <= 2
    assert small.encoded > 3


def test_a_summary_is_the_users_alone_and_a_whole_profile_is_the_querys_too():
    crime, space, later = asks([1, 2], "crime"), asks([1, 2], "space"), asks([1, 2], time=200)
    whole, summary = maker("summary_and_records"), maker("summary_only")
    assert len({summary.key(one) for one in (crime, space, later)}) == 1
    assert len({whole.key(one) for one in (crime, space, later)}) == 3
    assert summary.key(asks([1, 2, 3])) != summary.key(crime)


def test_prepared_profiles_survive_a_kill_and_are_not_encoded_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "CHUNK", 2)
    some = [asks([1, 2]), asks([2]), asks([]), asks([0, 4]), asks([3, 4])]
    texts = maker("summary_only")
    first = ProfileVectors(texts, letters, DIM, 1 << 20)
    first.prepare(some[:4], tmp_path, "a")  # killed before the last chunk
    first.take_moments(some)
    second = ProfileVectors(texts, letters, DIM, 1 << 20)
    second.prepare(some, tmp_path, "b")
    assert (first.encoded, second.encoded) == (4, 1)
    plain = letters([texts.text(one) or "" for one in some])
    np.testing.assert_array_equal(second.vectors(some)[0].numpy(), plain)
    assert second.encoded == 1
    second.take_moments(some)
    with_past = plain[[0, 1, 3, 4]]
    np.testing.assert_allclose(second.moments[0].numpy(), with_past.mean(0), rtol=1e-6)
    spread = np.sqrt(np.square(with_past - with_past.mean(0)).mean())
    assert second.moments[1].item() == pytest.approx(spread)
