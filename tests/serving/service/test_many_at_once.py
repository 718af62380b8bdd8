"""Many at once: requests of one packed pass, each answered as if it were alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.service.answers import Answered, Ask, answer_all
from serving.service.batches import Batches, TooMany
from serving.service.forms import RecommendForm
from serving.service.served import Served
from serving.service.settings import ServiceConfig
from tests.support.serving_http import in_turn, service_of

NAMED = [f"{n:032x}" for n in range(100)]


def ask(number: int, **form) -> Ask:
    """A request whose draws are named by its number."""
    return Ask(RecommendForm(**form), id=NAMED[number])


def mixed() -> list[Ask]:
    """Users, queries, lists and methods of every kind, side by side."""
    forms = [
        {
            "user_id": f"u{n}",
            "n": 3 + n % 3,
            "temperature": float(n % 2 or n % 6 == 0),
            "exclude": [f"i{n}", f"i{n + 2}"],
        }
        | ({"query": "even"} if n % 4 == 0 else {})
        | ({"allow": [f"i{k}" for k in range(n, n + 30)]} if n % 5 == 0 else {})
        | ({"caps": {"kind": 2}} if n % 6 == 0 else {})
        | ({"method": "tap_per"} if n % 7 == 0 else {})
        for n in range(24)
    ]
    return [ask(n, **form) for n, form in enumerate(forms)]


def same(one: Answered, other: Answered) -> None:
    assert [item.item_id for item in one.shown.items] == [item.item_id for item in other.shown.items]
    for a, b in zip(one.shown.items, other.shown.items, strict=True):
        np.testing.assert_allclose(a.score, b.score, rtol=2e-5)
        assert (a.probability is None) == (b.probability is None)
        if a.probability is not None:
            np.testing.assert_allclose(a.probability, b.probability, rtol=2e-4)
    assert (one.shown.path, one.shown.method, one.titles) == (
        other.shown.path,
        other.shown.method,
        other.titles,
    )


@pytest.fixture
def served(client) -> Served:
    return service_of(client).served


def test_two_users_in_one_pass_keep_what_is_theirs(client, monkeypatch):
    """What each excluded, what each was drawn and with which probability: as if the other had not been there."""
    import serving.service.answers as answers

    passes = []
    plain = answers.answer
    monkeypatch.setattr(answers, "answer", lambda *a, **k: passes.append(len(a[1])) or plain(*a, **k))
    even = ask(2, user_id="u2", n=6, temperature=1.0, allow=[f"i{n}" for n in range(0, 60, 2)])
    (theirs,) = in_turn(client, lambda served: answer_all(served, [even]))
    gone = [
        "i47",
        "i35",
        *(item.item_id for item in theirs.shown.items[:2]),
    ]  # the other has what one may not
    passes.clear()
    asks = [ask(1, user_id="u1", n=6, temperature=1.0, exclude=gone), even]
    together = in_turn(client, lambda served: answer_all(served, asks))
    assert passes == [2], "both were read in one pass"
    alone = in_turn(client, lambda served: [answer_all(served, [one])[0] for one in asks])
    for one, other in zip(together, alone, strict=True):
        same(one, other)
    first, second = ({item.item_id for item in one.shown.items} for one in together)
    assert not first & {*gone}
    assert {*gone[2:]} <= second
    assert all(int(item[1:]) % 2 == 0 for item in second)
    assert any(int(item[1:]) % 2 for item in first), "the other's allow-list is not theirs"
    assert [one.illegal for one in together] == [0, 0]


def test_whoever_asks_beside_one_changes_nothing(client):
    asks = mixed()
    alone = in_turn(client, lambda served: [answer_all(served, [one])[0] for one in asks])
    order = np.random.default_rng(0).permutation(len(asks))
    together = in_turn(client, lambda served: answer_all(served, [asks[at] for at in order]))
    for at, found in zip(order, together, strict=True):
        same(found, alone[at])


def test_a_fault_stays_with_whom_it_is_of(client, monkeypatch):
    import serving.service.answers as answers

    plain = answers.answer

    def broken(recommender, requests, *a, **k):
        if any(request.query == "poison" for request in requests):
            raise RuntimeError("no")
        return plain(recommender, requests, *a, **k)

    monkeypatch.setattr(answers, "answer", broken)
    some = [ask(1, user_id="u1"), ask(2, user_id="u2", query="poison"), ask(3, user_id="u3")]
    found = in_turn(client, lambda served: answer_all(served, some))
    assert [type(one) for one in found] == [Answered, RuntimeError, Answered]


def test_eight_threads_get_what_one_gets(client):
    forms = [one.form.model_dump(exclude_unset=True) | {"seed": 1} for one in mixed()] * 2
    one_by_one = [client.recommend(**form) for form in forms]
    with ThreadPoolExecutor(8) as threads:
        at_once = list(threads.map(lambda form: client.recommend(**form), forms))
    for one, other in zip(one_by_one, at_once, strict=True):
        assert [item.item_id for item in one.items] == [item.item_id for item in other.items]
    assert any(size > 1 for size in sizes_of(client)), "some were answered in one pass"


def sizes_of(client) -> list[float]:
    """Sizes of packed passes that there were, from the metrics."""
    counts, before, found = [line.rpartition(" ") for line in client.metrics().splitlines()
                             if line.startswith("prelude_batch_size_bucket")], 0.0, []  # fmt: skip
    for bucket, _, count in counts:
        if float(count) > before:
            found.append(float(bucket.partition('le="')[2].partition('"')[0]))
        before = float(count)
    return found


def test_what_waits_is_answered_together_and_too_many_are_told_so(served):
    settings = ServiceConfig(longest_wait_s=0.2, most_together=4, most_waiting=6)
    sizes: list[int] = []
    batches = Batches(lambda name: served, settings, lambda size, seconds: sizes.append(size))
    try:
        futures = [batches.ask(ask(n, user_id=f"u{n}", n=2)) for n in range(4)]
        assert [len(future.result(30).shown.items) for future in futures] == [2] * 4
        assert sizes == [4]
        with pytest.raises(TooMany):
            [batches.ask(ask(n, user_id=f"u{n}", n=2)) for n in range(40)]
    finally:
        batches.close()
    assert sum(sizes) <= 4 + 40
