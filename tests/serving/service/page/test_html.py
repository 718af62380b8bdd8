"""The page as HTML: everything that others wrote is escaped, nothing of elsewhere is loaded, keys guard it."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.product import Product
from evaluation.softmax import SoftmaxOver
from recsys.artifacts.manifest import manifest_text, rehashed, sha256_of
from recsys.embeddings.embed import load_conditioning_items
from serving.service.answers import request_of
from serving.service.forms import RecommendForm
from serving.service.page import figures, tree
from serving.service.page.views import STATIC, TYPES
from serving.state import keys
from tests.support.serving_http import in_turn, served, service_of

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
PAGES = ["/", "/?user=u1", "/?user=u1&temperature=1", "/lists?user=u1", "/why?item=i4&user=u1", "/why?item=i4&method=popularity",
         "/ids", "/ids?depth=1&node=0&user=u1", "/state", "/sign-in"]  # fmt: skip


@pytest.mark.parametrize("address", PAGES)
def test_a_page_comes_with_a_policy_that_loads_nothing_of_elsewhere(client, address):
    response = client.http.get(address)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=\"(https?:)?//", response.text)
    assert "style=" not in response.text
    assert not re.search(r"\son\w+=", response.text)


@pytest.mark.parametrize("name", list(TYPES))
def test_the_script_and_the_style_are_there(client, name):
    response = client.http.get(f"/static/{name}")
    assert response.content == (STATIC / name).read_bytes()
    assert response.headers["content-type"].startswith(TYPES[name])
    for other in ("../views.py", "x", "%2e%2e%2fviews.py"):
        assert client.http.get(f"/static/{other}").status_code == 404


@pytest.mark.parametrize("field", ["user", "query", "exclude", "allow"])
def test_what_is_asked_is_escaped(client, field):
    text = client.http.get("/", params={field: EVIL}).text
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


def test_titles_are_escaped(world_run, tmp_path):
    run = Path(shutil.copytree(world_run[1].path, tmp_path / "run"))
    path = run / "prepare" / "items.parquet"
    table = pq.ParquetFile(path).read()
    titles = pa.array([EVIL] * len(table), pa.string())
    pq.write_table(table.set_column(table.column_names.index("title"), "title", titles), path)
    again = {"prepare": {"items.parquet": sha256_of(path)}}
    records = {one.parent.name: json.loads(one.read_text()) for one in run.glob("*/stage.json")}
    after = rehashed(records, again)
    for stage, record in after.items():
        (run / stage / "stage.json").write_text(json.dumps(record))
    (run / "manifest.json").write_text(manifest_text(after, [], None))
    with served(run, tmp_path) as client:
        for address in ("/?user=u1", "/why?item=i4&user=u1", "/ids?depth=2&node=0"):
            response = client.http.get(address)
            assert response.status_code == 200
            assert "<script>alert" not in response.text
            assert "<img" not in response.text


@pytest.mark.parametrize("method", ["no_context", "e2p", "popularity"])
def test_items_of_the_tree_are_explained_by_the_method_whose_probabilities_it_shows(client, method):
    page = client.http.get("/ids", params={"depth": 2, "node": 0, "user": "u1", "method": method}).text
    links = {html.unescape(one) for one in re.findall(r'href="(/why[^"]*)"', page)}
    assert links
    tells = method != "popularity"  # which ranks, and has no probabilities
    assert all((f"&method={method}" in one) == tells and ("&method=" in one) == tells for one in links)
    assert ("probable by" in page) == tells
    assert client.http.get(min(links)).status_code == 200


def test_what_is_wrong_is_said_on_the_page(client):
    for address, status in (
        ("/?temperature=9", 422),
        ("/?allow=no-list", 422),
        ("/why?item=nothing", 404),
        ("/ids?depth=1&node=9999", 404),
    ):
        assert client.http.get(address).status_code == status
    assert "no-list" in client.http.get("/?allow=no-list").text


def test_a_key_guards_the_page_once_there_is_one(world_run, tmp_path, monkeypatch):
    import serving.service.access as access

    monkeypatch.setattr(access, "REMEMBERED_S", 0.0)
    with served(world_run[1].path, tmp_path) as client:
        state = service_of(client).state
        admin, small = (
            state.write(lambda c, s=s: keys.make_key(c, "x", [s])) for s in ("admin", "recommend")
        )
        assert client.http.get("/").status_code == 401
        assert client.http.post("/sign-in", data={"key": small}).status_code == 403
        assert (
            client.http.post(
                "/sign-in", data={"key": admin}, headers={"Origin": "http://evil.example"}
            ).status_code
            == 403
        )
        answer = client.http.post("/sign-in", data={"key": admin}, follow_redirects=False)
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.http.get("/").status_code == 200


def on_page(client, figure, *given):
    return in_turn(client, lambda served: figure(served, *given))


def test_probabilities_along_a_path_multiply_to_the_items(client):
    form = RecommendForm(user_id="u1", temperature=1.0, method="e2p", exclude=["i1", "i3"])
    found = on_page(client, figures.why, form, "i5")
    assert found is not None
    assert np.prod([step.here for step in found.steps]) == pytest.approx(found.probability, rel=1e-4)
    assert found.steps[-1].below == pytest.approx(found.probability, rel=1e-4)
    (gone,) = found.removed
    assert gone["items"] == 2
    assert 0 < gone["probability"] < 1
    out = on_page(client, figures.why, form, "i1")
    assert (out.rank, out.probability) == (None, 0.0)
    ranks = {on_page(client, figures.why, form, f"i{n}").rank for n in range(60) if n not in (1, 3)}
    assert len(ranks) > 50


def test_the_tree_holds_every_item_once_and_all_of_the_probability(client):
    form = RecommendForm(user_id="u1")

    def items(depth: int, node: int) -> list[str]:
        found = on_page(client, tree.tree, depth, node, form)
        assert sum(child.items for child in found.children) == found.items
        below = [items(depth + 1, child.node) for child in found.children if child.item_id is None]
        here = [child.item_id for child in found.children if child.item_id is not None]
        return [*here, *(one for some in below for one in some)]

    assert sorted(items(0, 0)) == sorted(f"i{n}" for n in range(60))
    root = on_page(client, tree.tree, 0, 0, form)
    assert sum(child.probability for child in root.children) == pytest.approx(1, abs=1e-4)


def test_the_picture_is_the_node_and_two_rows_of_what_is_below_it(client):
    found = on_page(client, tree.tree, 0, 0, RecommendForm(user_id="u1"))
    first = [cell for cell in found.picture if cell.row == 0]
    assert [cell.child for cell in first] == found.children
    assert sum(cell.width for cell in first) == pytest.approx(tree.WIDE)
    assert all(cell.width == pytest.approx(tree.WIDE * cell.child.items / found.items) for cell in first)
    assert max(cell.darkness for cell in first) == first[0].darkness == 1
    below = [cell for cell in found.picture if cell.row == 1]
    assert below
    for cell in below:
        (above,) = [one for one in first if one.x - 1e-6 <= cell.x < one.x + one.width - 1e-6]
        assert cell.x + cell.width <= above.x + above.width + 1e-6
        assert cell.child.items <= above.child.items
        assert cell.child.probability <= above.child.probability + 1e-6
    text = client.http.get("/ids?user=u1").text
    assert text.count("<rect ") == len(found.picture)


def test_arms_stand_on_the_page_with_both_intervals(world_run, tmp_path):
    arms = {"cold": {"temperature": 0.5}, "warm": {"temperature": 1.5}}
    with served(world_run[1].path, tmp_path, experiments={"warmth": {"salt": "s1", "arms": arms}}) as client:
        assert "No list was shown" in client.http.get("/state").text
        for n in range(24):
            answer = client.recommend(user_id=f"u{n}", n=2)
            if n % 3:
                client.send({"event_id": str(n), "user_id": f"u{n}", "item_id": answer.items[n % 2].item_id,
                             "type": "like", "recommendation_id": answer.recommendation_id})  # fmt: skip
        text = client.http.get("/state").text
        report = figures.arms(service_of(client).state, "warmth", ["like"])
        (pair,) = report.pairs.values()
        assert "warm − cold" in text
        for interval in (pair.interval, pair.always):
            assert f"{interval[0]:+.4f} to {interval[1]:+.4f}" in text
        assert pair.always[0] < pair.interval[0]


def test_side_by_side_says_what_e2p_changes(client):
    side = on_page(client, figures.side_by_side, RecommendForm(user_id="u1", seed=0))
    assert [column.key for column in side.columns][:2] == ["no_context", "e2p"]
    assert {column.key for column in side.columns} == set(service_of(client).served.methods.available())
    plain, ours = ([item["item_id"] for item in column.items] for column in side.columns[:2])
    for place, item in enumerate(side.columns[1].items):
        expected = plain.index(item["item_id"]) - place if item["item_id"] in plain else "new"
        assert item["moved"] == expected
    assert plain != ours


def test_what_a_users_vector_is_near_is_by_cosine(client):
    side = on_page(client, figures.side_by_side, RecommendForm(user_id="u1", seed=0))

    def told(served_run):
        methods = served_run.methods
        request = request_of(served_run, RecommendForm(user_id="u1"), "x").request
        items = load_conditioning_items(methods.run)
        return methods.users.vectors([request])[0][0], items, methods.dataset.catalogue.item_ids

    user, items, ids = in_turn(client, told)
    cosines = [user @ one / np.linalg.norm(user) / np.linalg.norm(one) for one in items]
    best = sorted(cosines, reverse=True)[: figures.NEAR]
    assert [one["cosine"] for one in side.near] == pytest.approx(best, abs=1e-5)
    assert side.near[0]["item_id"] == ids[np.argmax(cosines)]
    assert on_page(client, figures.side_by_side, RecommendForm(seed=0)).near == []


def test_what_experts_add_is_what_sets_the_item_apart_from_the_mean(client):
    def told(served_run):
        scorers = [served_run.recommender.method(key) for key in ("embedding_retrieval", "sasrec")]
        product = SoftmaxOver(Product("both", scorers, [2.0, -0.5]), 1.0, "both", 60)
        request = request_of(served_run, RecommendForm(user_id="u1"), "x").request
        available = np.arange(60) != 7
        return (
            figures.experts_of(product, request, 5, available),
            product.scorer.scores([request])[0],
            available,
        )

    found, scores, available = in_turn(client, told)
    assert len(found) == 2
    assert sum(one["nats"] for one in found) == pytest.approx(scores[5] - scores[available].mean(), rel=1e-4)
    assert sum(one["share"] for one in found) == pytest.approx(1)
