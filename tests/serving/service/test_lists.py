"""Lists over HTTP: what `Recommender.recommend` answers, with identity, probabilities, pages, and words for what is wrong."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from serving import Recommender
from serving.answering.requests import asked_of
from serving.service.client import ServiceError
from serving.service.served import Served
from tests.support.serving_http import in_turn

ASKED = [
    {"user_id": "u1", "n": 5},
    {"user_id": "u2", "n": 40},
    {"user_id": "u1", "n": 5, "query": "even", "temperature": 1.0, "seed": 3},
    {"user_id": "u3", "n": 4, "temperature": 0.7, "seed": 9, "sequence": True},
    {"user_id": "u3", "n": 4, "temperature": 1.0, "seed": 9, "caps": {"kind": 2}},
    {"user_id": "u4", "n": 4, "caps": {"kind": 2}, "order": "smooth"},
    {"n": 4, "history": ["i1", "i3", "i5"], "exclude": ["i7"], "exclude_seen": True},
    {"user_id": "u5", "n": 4, "allow": ["i1", "i2", "i4", "i99"]},
    {"user_id": "u6", "n": 5, "method": "embedding_retrieval"},
    {"user_id": "u6", "n": 5, "method": "popularity"},
    {"user_id": "u6", "n": 5, "method": "tap_per", "strength": 0.5, "time": 1_012_000},
]


@pytest.fixture(scope="module")
def recommender(world_run) -> Recommender:
    return Recommender.load(world_run[1].path)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_http_answers_what_python_does(client, recommender, asked):
    told = client.recommend(**asked)
    found = recommender.recommend(asked.get("user_id"), **{k: v for k, v in asked.items() if k != "user_id"})
    assert [item.item_id for item in told.items] == [item.item_id for item in found]
    assert [item.title for item in told.items] == [item.title for item in found]
    np.testing.assert_allclose([item.score for item in told.items], [item.score for item in found], rtol=1e-5)
    assert (told.method, told.path) == (found.method, found.path)
    assert told.ignored == {what: counted.count for what, counted in found.ignored.items()}


def test_draws_without_a_seed_are_others_each_time(client):
    lists = {
        tuple(item.item_id for item in client.recommend(user_id="u1", n=8, temperature=1.0).items)
        for _ in range(4)
    }
    assert len(lists) == 4


def test_probabilities_are_those_of_drawing_without_replacement(client, recommender):
    told = client.recommend(user_id="u1", n=6, temperature=1.3, exclude=["i1"])
    request = asked_python(recommender, "u1", exclude=["i1"])
    p = np.exp(recommender.method("e2p").log_probs([request], 1.3)[0])
    assert p.sum() == pytest.approx(1, abs=1e-5)
    left = 1.0
    for item in told.items:
        own = p[recommender.methods.dataset.catalogue.index_of(item.item_id)]
        assert item.probability == pytest.approx(own / left, rel=1e-4)
        left -= own


def test_probabilities_are_the_frequencies_of_first_items(client):
    counts: Counter[str] = Counter()
    chance: dict[str, float] = {}
    for _ in range(12):
        answers = client.recommend_batch([{"user_id": "u7", "n": 1, "temperature": 0.5}] * 50).answers
        for answer in answers:
            (item,) = answer.items
            counts[item.item_id] += 1
            chance[item.item_id] = item.probability
    n = sum(counts.values())
    best, expected = max(chance, key=chance.__getitem__), max(chance.values())
    assert abs(counts[best] / n - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def test_under_caps_what_does_not_fit_is_rejected(client, recommender):
    told = client.recommend(user_id="u1", n=4, temperature=1.0, caps={"kind": 2})
    catalogue = recommender.methods.dataset.catalogue
    p = np.exp(recommender.method("e2p").log_probs([asked_python(recommender, "u1")], 1.0)[0])
    kinds, left = Counter(), p.copy()
    for item in told.items:
        number = catalogue.index_of(item.item_id)
        assert item.probability == pytest.approx(p[number] / left.sum(), rel=1e-4)
        (kind,) = catalogue.columns["kind"][number]
        kinds[kind] += 1
        left[number] = 0
        if kinds[kind] == 2:
            left[[i for i in range(len(catalogue)) if catalogue.columns["kind"][i] == [kind]]] = 0
    assert kinds == {"Even": 2, "Odd": 2}


def test_the_last_of_few_has_probability_one(client):
    told = client.recommend(user_id="u1", n=9, temperature=1.0, allow=["i1", "i2", "i40"])
    assert len(told.items) == 3
    assert told.items[-1].probability == pytest.approx(1.0, abs=1e-5)


def test_the_best_have_no_probability(client):
    assert {item.probability for item in client.recommend(user_id="u1").items} == {None}


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0}, {"temperature": 1.0, "sequence": True}], ids=str)
def test_pages_go_on_without_repeating_until_everything_was_shown(client, how):
    pages = list(client.pages(user_id="u2", n=25, allow=[f"i{n}" for n in range(55)], **how))
    shown = [item.item_id for page in pages for item in page.items]
    assert [len(page.items) for page in pages] == [25, 25, 5]
    assert len(set(shown)) == len(shown) == 55
    if how.get("temperature"):
        assert pages[-1].items[-1].probability == pytest.approx(1.0, abs=1e-5)


def test_a_page_goes_on_with_the_draw_that_a_longer_list_would_have_been(client, recommender):
    first = client.recommend(user_id="u2", n=4, temperature=1.0, seed=5)
    second = client.recommend(next=first.recommendation_id, n=3)
    whole = recommender.recommend("u2", n=7, temperature=1.0, seed=5)
    assert [item.item_id for item in (*first.items, *second.items)] == [item.item_id for item in whole]
    p = np.exp([item.score for item in whole])
    left = 1 - np.concatenate([[0], np.cumsum(p)[:-1]])
    got = [item.probability for item in (*first.items, *second.items)]
    np.testing.assert_allclose(got, p / left, rtol=1e-5)


def test_a_page_after_the_user_moved_is_drawn_anew_from_what_was_not_shown(client, recommender):
    first = client.recommend(user_id="mover", n=5, temperature=1.0)
    client.send(
        *(
            {"event_id": f"mover{n}", "user_id": "mover", "item_id": f"i{2 * n}", "type": "play"}
            for n in range(6)
        )
    )
    second = client.recommend(next=first.recommendation_id)
    shown = {item.item_id for item in first.items}
    assert second.path == "personalized"
    assert not shown & {item.item_id for item in second.items}

    def left(served: Served) -> tuple[np.ndarray, list[int]]:
        request = asked_of(served.data, served.histories, "mover").request
        every = np.exp(served.recommender.method("e2p").log_probs([request], 1.0)[0])
        every[[served.data.catalogue.index_of(one) for one in shown]] = 0
        return every, [served.data.catalogue.index_of(item.item_id) for item in second.items]

    every, items = in_turn(client, left)
    for item, told in zip(items, second.items, strict=True):
        assert told.probability == pytest.approx(every[item] / every.sum(), rel=1e-4)
        every[item] = 0


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"n": 0}, "n"),
        ({"n": 1001}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e-9}, "temperature"),
        ({"strength": 2}, "strength"),
        ({"method": "nothing"}, "method"),
        ({"caps": {"kind": 0}}, "caps"),
        ({"caps": {"nothing": 1}}, "caps"),
        ({"time": "yesterday"}, "time"),
        ({"allow": "no-such-list"}, "allow"),
        ({"exclude": "no-such-list"}, "exclude"),
        ({"history": [True]}, "history"),
        ({"next": "0" * 32}, "next"),
        ({"next": "0" * 32, "temperature": 1.0}, "temperature"),
        ({"nobody": 1}, "nobody"),
        ({"sequence": True, "method": "popularity"}, None),
    ],
    ids=str,
)
def test_what_is_wrong_is_a_problem_that_names_the_field(client, asked, field):
    response = client.http.post("/v1/recommend", json=asked)
    problem = response.json()
    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == response.status_code
    if field:
        assert problem["errors"][0]["field"].partition(".")[0].partition("[")[0] == field
    assert "/" not in problem["detail"].replace("/v1/lists", "")
    assert "Traceback" not in response.text


def test_a_batch_answers_each_and_one_fault_is_one_requests(client):
    answers = client.recommend_batch(
        [{"user_id": "u1", "n": 2}, {"method": "no"}, {"user_id": "u2", "n": 3}]
    ).answers
    assert [len(answers[0].items), len(answers[2].items)] == [2, 3]
    assert "no method" in answers[1].error


def test_every_call_has_its_name_in_the_schema(client):
    schema = client.http.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    assert {"/v1/recommend", "/v1/recommend:batch", "/v1/events", "/v1/users/{user_id}", "/v1/users/{user_id}/export",
            "/v1/lists/{name}", "/v1/items/{item_id}", "/v1/items", "/health/live", "/health/ready", "/metrics",
            "/v1/admin/reload"} <= schema["paths"].keys()  # fmt: skip
    assert schema["components"]["schemas"]["RecommendForm"]["examples"]


def test_an_item_has_its_codes_in_words_and_neighbours(client):
    form = client.item("i4")
    assert form.columns == {"kind": ["Even"]}
    assert [code.items for code in form.codes] == sorted((code.items for code in form.codes), reverse=True)
    assert form.codes[-1].items == 1
    assert form.codes[-1].words == ["kind: Even"]
    assert len(form.neighbours) == 8
    assert "i4" not in {item.item_id for item in form.neighbours}
    assert client.find_items("TITLE 59") == [{"item_id": "i59", "title": "Title 59"}]
    with pytest.raises(ServiceError, match="404"):
        client.item("nothing")


def asked_python(recommender: Recommender, user_id: str | None, **options):
    return asked_of(recommender.methods.dataset, recommender.live.histories, user_id, **options).request


def test_a_page_after_a_late_event_is_drawn_anew_though_the_first_items_are_the_same(client):
    """By other probabilities the same numbers may draw the same first item, and what they draw next is of neither."""
    first = client.recommend(user_id="u20", n=1, temperature=0.7)
    late = {"event_id": "late", "user_id": "u20", "item_id": "i4", "type": "like", "timestamp": 1_000_500}
    client.send(late)  # it stands in the past, so the moment that draws are named by is the same
    second = client.recommend(next=first.recommendation_id, n=2)
    shown = client.export_user("u20")["service"]["shown"]
    (one,) = (found for found in shown if found["id"] == first.recommendation_id)
    (two,) = (found for found in shown if found["id"] == second.recommendation_id)
    assert one["asked"]["moment"] == two["asked"]["moment"]
    assert one["asked"]["noise"] != two["asked"]["noise"]


@pytest.mark.parametrize(
    "how",
    [
        {"sequence": True},
        {"method": "popularity", "temperature": 1.0, "caps": {"kind": 4}},
        {"temperature": 1.0, "seed": 2, "caps": {"kind": 4}},
    ],
    ids=str,
)
def test_what_has_not_changed_goes_on(client, recommender, how):
    first = client.recommend(user_id="u2", n=3, **how)
    second = client.recommend(next=first.recommendation_id, n=2)
    whole = recommender.recommend("u2", n=5, **how)
    assert [item.item_id for item in (*first.items, *second.items)] == [item.item_id for item in whole]
