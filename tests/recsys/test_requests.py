"""Requests in blocks: what one by one makes, whatever the block, and no more of them at a time than a block."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from recsys import requests as module
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Against, Dataset
from recsys.data.splits import FIT, TEST
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Request
from recsys.requests import Requests, blocks, some_of

N = 40  # items


def dataset(seed: int = 0, n: int = 240) -> Dataset:
    """Six users with many ties and many repeats."""
    generator = np.random.default_rng(seed)
    users, times = generator.integers(0, 6, n), generator.integers(0, 25, n)
    order = np.lexsort((times, users))
    users, times = users[order], times[order]
    ids = np.array([f"i{item}" for item in range(N)], object)
    return Dataset(
        user_ids=np.array([f"u{user}" for user in range(6)], object),
        catalogue=Catalogue(ids, [f"T{item}" for item in range(N)], {}),
        users=users,
        items=generator.integers(0, N, n),
        times=times,
        weights=np.ones(n, np.float32),
        roles=np.where(times < 20, FIT, TEST).astype(np.int8),
        queries=pd.DataFrame({"user": [], "item": [], "timestamp": [], "query": []}),
    )


def turned_down(data: Dataset, n: int = 40) -> Dataset:
    """The same data, where people have turned down things too."""
    generator = np.random.default_rng(3)
    users, times = np.sort(generator.integers(0, data.n_users, n)), generator.integers(0, 25, n)
    order = np.lexsort((times, users))
    return replace(data, against=Against(users[order], generator.integers(0, N, n), times[order]))


def slow_request(data: Dataset, event: int, exclude_seen: bool) -> Request:
    """As the design has it, one by one: the events strictly before, and what may not come again."""
    user, time = int(data.users[event]), int(data.times[event])
    history, times = data.before(user, time)
    left_out = data.not_again(user, time, history, exclude_seen)
    left_out = left_out[left_out != data.items[event]]
    return Request(f"e{event}", user, time, history, times, None, left_out)


def same(one: Request, other: Request) -> bool:
    for field in fields(Request):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            if mine.dtype != theirs.dtype or not np.array_equal(mine, theirs):
                return False
        elif mine != theirs or type(mine) is not type(theirs):
            return False
    return True


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("against", [True, False])
@pytest.mark.parametrize("items_at_once", [1, 7, 1 << 20])
def test_a_block_is_what_one_by_one_gives(monkeypatch, exclude_seen, against, items_at_once):
    monkeypatch.setattr(module, "ITEMS", items_at_once)
    data = turned_down(dataset()) if against else dataset()
    assert data.exclude_against
    events = np.random.default_rng(1).permutation(len(data.users))
    asked = data.requests(events, exclude_seen)
    wanted = [slow_request(data, int(event), exclude_seen) for event in events]
    assert any(len(request.exclude) for request in wanted) == (exclude_seen or against)
    assert len(asked) == len(wanted)
    for found in (list(asked), asked[:], [asked[at] for at in range(len(asked))]):
        assert all(map(same, found, wanted))
    places = np.array([5, 0, 5, 17])
    assert all(map(same, asked.at(places), some_of(wanted, places)))
    assert all(map(same, asked.only(places), some_of(wanted, places)))
    assert all(map(same, asked[3:40:2], wanted[3:40:2]))


def test_what_is_turned_down_counts_only_where_it_is_excluded():
    data = replace(turned_down(dataset()), exclude_against=False)
    assert all(len(request.exclude) == 0 for request in data.requests(data.events(TEST), False))


def test_histories_are_parts_of_the_events_and_no_copies():
    data = dataset()
    for request in data.requests(data.events(TEST), True):
        assert np.shares_memory(request.history, data.items) or not len(request.history)


def test_going_through_a_role_makes_a_block_at_a_time(monkeypatch):
    """Counted by what is alive, not by a clock: of 240 requests never more than three blocks of 16."""
    monkeypatch.setattr(module, "BLOCK", 16)
    data, alive, most = dataset(), 0, 0

    class Counted(Request):
        __slots__ = ()

        def __del__(self):
            nonlocal alive
            alive -= 1

    def make(numbers: np.ndarray) -> list[Request]:
        nonlocal alive, most
        assert len(numbers) <= 16
        alive += len(numbers)
        most = max(most, alive)
        return [
            Counted(*(getattr(one, field.name) for field in fields(Request)))
            for one in data.block(numbers, True)
        ]

    asked = Requests(np.arange(240), make)
    assert sum(1 for _ in asked) == 240
    assert most <= 48
    for some in blocks(asked, 16):
        assert len(some) == 16
    assert most <= 48
    messages = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    monkeypatch.setattr("recsys.embeddings.user_vectors.CHUNK", 16)
    users = HistoryVectors(messages, 3.0, "")
    vectors, known = users.vectors(asked)
    assert most <= 48
    plain, also = users.vectors(data.block(np.arange(240), True))
    np.testing.assert_array_equal(vectors, plain)
    np.testing.assert_array_equal(known, also)


def test_an_id_is_found_again():
    data = dataset()
    asked = data.requests(data.events(TEST), True)
    assert [asked.place(request.request_id) for request in asked] == list(range(len(asked)))
    with pytest.raises(KeyError, match="e999"):
        asked.place("e999")


def test_no_events_are_no_requests():
    data = dataset()
    assert data.block(np.zeros(0, np.int64), True) == []
    assert list(data.requests(np.zeros(0, np.int64), True)) == []
    vectors, known = HistoryVectors(np.ones((N, 3)), None, "").vectors(
        data.requests(np.zeros(0, np.int64), True)
    )
    assert vectors.shape == (0, 3)
    assert known.shape == (0,)
