"""What the model reads: layout, the profile's moment, windows without ties, and the planted answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from llm.backbone.vocabulary import PREFIX
from llm.prompts.contexts import FullHistory, Joined, Profile, Records, RecordSearch
from llm.stage1.windows import Shares, WindowBatches, WindowBuilder, windows_of_epoch
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, TEST
from recsys.embeddings.leaks import LeakError, check_planted_answer
from recsys.recommender import Request
from tests.support.prompts import BOS, TOKENS, N, builder, catalogue, dataset, text_of


def test_the_layout():
    request = Request(
        "r", 0, 9, history=np.array([4, 6, 1, 3]), history_times=np.arange(4), query="  dark \n comedy "
    )
    tokens = builder(recent_items=2).with_soft_tokens(builder(recent_items=2).prompt(request, Profile()), 1)
    assert tokens[:2] == [PREFIX, BOS]
    assert text_of(tokens) == "Profile: likes Even; enjoyed T6; T4.\nHistory:\nQuery: dark comedy"
    assert [token for token in tokens if token > 1000] == [1002, 1003, 1006, 1007]  # items 1 and 3
    after = builder(prefix_position="after_bos")
    assert after.with_soft_tokens(after.prompt(request), 2)[:4] == [
        BOS,
        PREFIX,
        PREFIX,
        after.prompt(request)[1],
    ]
    assert text_of(builder().prompt(Request("r", 0, 9))) == "History:"
    assert text_of(builder().prompt(Request("r", 0, 9, query=" \n "))) == "History:"


def test_a_long_query_is_cut_in_tokens():
    request = Request("r", 0, 9, query="x" * 10_000)
    assert len(builder(query_tokens=20).prompt(request)) == 1 + 20 + len("\nHistory:")


def test_windows_have_rising_times_one_user_and_cover_one_event_of_each_tie():
    data = dataset()
    fit = data.events(FIT)
    ties = set(zip(data.users[fit].tolist(), data.times[fit].tolist(), strict=True))
    drawn = []
    for epoch in range(30):
        windows = windows_of_epoch(data, FIT, 4, seed=1, epoch=epoch)
        events = np.concatenate(windows)
        assert max(map(len, windows)) <= 4
        assert {(data.users[e], data.times[e]) for e in events.tolist()} == ties
        assert len(events) == len(ties)
        for window in windows:
            assert len(set(data.users[window].tolist())) == 1
            assert (np.diff(data.times[window]) > 0).all()
        drawn.append(events)
    assert set(np.concatenate(drawn).tolist()) == set(fit.tolist())  # every tied event has its turn


def test_every_target_of_a_window_is_predicted_from_what_came_before():
    data = dataset()
    windows = WindowBuilder(data, builder(), Shares(0.5, 0.5, 0.0), seed=0)
    with_query = 0
    for events in windows_of_epoch(data, FIT, 5, seed=0, epoch=0):
        window = windows.window(events, 0)
        for item, start in zip(window.items, window.starts, strict=True):
            assert window.tokens[start : start + 2] == TOKENS[item].tolist()
        text = text_of(window.tokens)
        if "Query: " in text:
            with_query += 1
            assert len(window.items) == 1
            asked = text.split("Query: ")[1].split("\n")[0]
            assert set(asked.split()) <= {phrase.lower() for phrase in windows.phrases.of[window.items[0]]}
        if "Profile: " in text:
            earlier = data.items[data.offsets[data.users[events[0]]] : data.history_end[events[0]]]
            titles = text.split("enjoyed ")[1].split(".")[0].split("; ")
            assert titles == [f"T{item}" for item in earlier[::-1][:3]]
    assert with_query > 5


def test_batches_walk_through_epochs_in_any_order():
    data = dataset()
    batches = WindowBatches(WindowBuilder(data, builder(), Shares(0.0, 0.0, 0.3), 0), FIT, 5, 7)
    first = [[window.tokens for window in batches[step]] for step in range(25)]
    again = [[window.tokens for window in batches[step]] for step in reversed(range(25))][::-1]
    assert first == again


def test_queries_of_held_out_pairs_are_not_learned_from():
    data = dataset()
    held_out = data.events(TEST)[0]
    user, item = int(data.users[held_out]), int(data.items[held_out])
    data.queries = pd.DataFrame(
        {
            "user": [user, -1],
            "item": [item, (item + 1) % N],
            "timestamp": [1, 1],
            "query": ["secret", "public"],
        }
    )
    phrases = Phrases(data).of
    assert "secret" not in phrases[item]
    assert "public" in phrases[(item + 1) % N]


def contexts() -> dict:
    records = Records(RecordSearch(catalogue()), 3)
    return {
        "none": None,
        "profile": Profile(),
        "rag": records,
        "pag": Joined((Profile(), records)),
        "full history": FullHistory(6),
    }


@pytest.mark.parametrize("context", list(contexts()))
def test_the_planted_answer_changes_no_prompt(context):
    from recsys.embeddings.leaks import Events

    data = dataset()
    event = next(int(e) for e in data.events(TEST) if data.history_end[e] - data.offsets[data.users[e]] > 8)
    user, time = int(data.users[event]), int(data.times[event])
    prompts = builder(recent_items=3)

    def build(events, strict: bool = True):
        order = np.lexsort((events.times, events.users))
        zeros = np.zeros(len(order))
        made = Dataset(data.user_ids, data.catalogue, events.users[order], events.items[order], events.times[order],
                       zeros.astype(np.float32), zeros.astype(np.int8), data.queries)  # fmt: skip
        history, times = made.before(user, time if strict else time + 1)
        request = Request("r", user, time, history, times)
        return {"prompt": np.array(prompts.prompt(request, contexts()[context]))}

    events = Events(data.users, data.items, data.times)
    check_planted_answer(build, events, user, time, int(data.items[event]))
    with pytest.raises(LeakError):
        check_planted_answer(lambda some: build(some, strict=False), events, user, time, 11)
