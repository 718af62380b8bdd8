"""Events over HTTP: stored once, seen at once, by every process."""

from __future__ import annotations

import pytest

from serving.service.client import ServiceError
from serving.service.forms import EventForm
from tests.support.serving_http import in_turn, served, service_of


def event(number: int | str, user: str, item: str, kind: str = "click", **more) -> dict:
    return {"event_id": f"{user}-{number}", "user_id": user, "item_id": item, "type": kind} | more


def items(client, **asked) -> list[str]:
    return [item.item_id for item in client.recommend(**asked).items]


def events_counted(metrics: str) -> float:
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("prelude_events_total")
    )


def test_an_event_changes_the_list_and_makes_a_stranger_known(client):
    before = client.recommend(user_id="stranger", n=8)
    assert before.path.startswith("cold start (user 'stranger' is unknown")
    taken = client.send(*(event(n, "stranger", f"i{2 * n}") for n in range(5)))
    assert (taken.stored, taken.known, taken.unknown_items) == (5, 0, 0)
    after = client.recommend(user_id="stranger", n=8)
    assert after.path == "personalized"
    assert [item.item_id for item in after.items] != [item.item_id for item in before.items]
    person = client.user("stranger")
    assert [row["item_id"] for row in person.history] == ["i8", "i6", "i4", "i2", "i0"]


def test_events_of_one_change_nobody_elses_list(client):
    before = items(client, user_id="u9", n=20), items(client, user_id="u10", n=20)
    client.send(*(event(n, "u9", f"i{n}", "play") for n in range(30, 38)))
    assert items(client, user_id="u9", n=20) != before[0]
    assert items(client, user_id="u10", n=20) == before[1]


def test_what_was_sent_twice_is_stored_once(client):
    some = [event(n, "twice", "i1", timestamp=1_020_000 + n) for n in range(3)]
    assert client.send(*some, some[0]).stored == 3
    before = client.metrics()
    again = client.send(*some)
    assert (again.stored, again.known) == (0, 3)
    assert client.user("twice").events == 3
    assert events_counted(client.metrics()) == events_counted(before), "nothing was stored"
    with pytest.raises(ServiceError, match="another event") as refused:
        client.send(event(0, "twice", "i2", timestamp=1_020_000))
    assert (refused.value.status, refused.value.field) == (409, "event_id")


@pytest.mark.parametrize("is_clock", [True, False])
def test_an_event_that_comes_in_leaves_the_histories_to_who_reads_them(client, monkeypatch, is_clock):
    """Read in two threads, a history could be kept as it was before an event, for good."""
    who = f"in-two-threads-{is_clock}"
    client.send(event(0, who, "i1"))
    last = in_turn(client, lambda found: int(found.histories.events(found.histories.user_index(who))[1][-1]))  # fmt: skip
    client.send(event(1, "u12", "i1"), event(2, who, "i5", timestamp=last + 7))
    served = in_turn(client, lambda found: found)  # has caught up, and read nobody
    monkeypatch.setattr(served, "is_clock", is_clock)
    before = set(served.histories._read)
    made = [served.event("here", EventForm(**event(3, user, "i3"))) for user in (who, "u12")]
    assert set(served.histories._read) == before
    if not is_clock:
        assert made[0].time == last + 8, "after all that they did"


def test_types_that_are_no_history_are_kept_and_not_read(client):
    client.send(
        event(0, "looker", "i1", "impression"),
        event(1, "looker", "i2", "skip"),
        event(2, "looker", "i3", "dislike"),
    )
    assert client.recommend(user_id="looker").path.startswith("cold start")
    assert client.user("looker").events == 3


def test_an_item_that_the_run_does_not_know_is_kept_and_said(client):
    assert client.send(event(0, "u11", "brand-new")).unknown_items == 1
    assert client.export_user("u11")["service"]["events"][0]["item_id"] == "brand-new"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"type": "kiss"}, "events.0.type"),
        ({"user_id": " "}, "events.0.user_id"),
        ({"item_id": ""}, "events.0.item_id"),
        ({"user_id": True}, "events.0.user_id"),
        ({"event_id": ""}, "events.0.event_id"),
        ({"event_id": "a\nb"}, "events.0.event_id"),
        ({"timestamp": "soon"}, "events.0.timestamp"),
        ({"timestamp": 1e99}, "events.0.timestamp"),
        ({"rating": 3}, "events.0.rating"),
    ],
    ids=str,
)
def test_one_wrong_event_stores_none(client, wrong, field):
    body = {"events": [event("w", "victim", "i1") | wrong, event("fine", "victim", "i2")]}
    response = client.http.post("/v1/events", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"].startswith(field)
    with pytest.raises(ServiceError, match="404"):
        client.user("victim")


def test_another_process_sees_an_event_at_once_and_what_was_stored_comes_back(world_run, tmp_path):
    with served(world_run[1].path, tmp_path) as one:
        one.send(*(event(n, "a", f"i{2 * n}") for n in range(3)))
        with served(world_run[1].path, tmp_path) as two:
            assert items(two, user_id="a") == items(one, user_id="a")
            two.send(*(event(n, "b", f"i{2 * n + 1}") for n in range(3)))
            two.send(event(9, "a", "i20"))
            assert items(one, user_id="a") == items(two, user_id="a")
            asked = {"user_id": "b", "temperature": 1.0, "seed": 4}
            assert items(one, **asked) == items(two, **asked), (
                "draws of strangers are the same in every process"
            )
            assert service_of(one).behind() == service_of(two).behind() == 0
    with served(world_run[1].path, tmp_path) as again:
        assert len(again.user("a").history) == 4
        assert again.recommend(user_id="b").path == "personalized"
