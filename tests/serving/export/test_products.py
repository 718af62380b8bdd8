"""Products of experts in an export: the same answers and playlists elsewhere."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.artifacts.manifest import sha256_of
from recsys.data.caps import within
from recsys.run import Run
from serving import Recommender
from serving.answering.requests import caps_of, request_of
from serving.export.folder import export_run, import_run
from serving.playlists.job import playlists
from serving.playlists.plan import Settings, identity_of, refuse_impossible
from tests.support.engines import Here
from tests.support.exports import KNOWN, NEWCOMER, PRODUCTS, STRANGER, answers, with_products
from tests.support.records import made_with

OF_QUERIES = [
    "words_product",
    "query_product",
]  # what reads a query's words, where all generators are exported


def test_products_and_their_experts_answer_the_same_elsewhere(combined, tmp_path):
    export_run(combined.path, tmp_path / "out")
    import_run(tmp_path / "out", tmp_path / "run")
    original, service = Recommender.load(combined.path), Recommender.load(tmp_path / "run")
    assert service.methods.available() == original.methods.available()
    assert service.methods.available()[-5:] == [*PRODUCTS, *OF_QUERIES]
    for method in (*PRODUCTS, "sasrec", "item_knn"):
        asked = (STRANGER, KNOWN, NEWCOMER)
        assert answers(service, method, *asked) == answers(original, method, *asked), method
    said = json.loads((tmp_path / "run" / "manifest.json").read_text())["exported"]["methods"]
    assert sorted(said) == sorted(service.methods.available())


def test_a_product_brings_its_generator_and_leaves_the_others(combined, tmp_path):
    original = Recommender.load(combined.path)
    for wanted, trained, products in (
        (["e2p_product"], ["e2p"], [*PRODUCTS, *OF_QUERIES]),
        (["no_context_product"], [], PRODUCTS[:2]),
        (["tap_per", "experts_product"], ["tap_per"], PRODUCTS[:2]),
    ):
        out = tmp_path / wanted[0]
        export_run(combined.path, out, wanted)
        service = Recommender.load(out)
        assert [m.key for m in service.methods.config.personalize.methods if m.is_trained] == trained
        assert list(service.methods.product_names) == products
        weights = json.loads((out / "combine" / "combine.json").read_text())["products"]
        assert len(weights) == len(set(products) & set(PRODUCTS))
        assert answers(service, products[-1]) == answers(original, products[-1])
    assert (tmp_path / "e2p_product" / "combine" / "combine.json").read_bytes() == (
        combined.path / "combine" / "combine.json"
    ).read_bytes()
    with pytest.raises(
        ValueError, match=r"--method tap_per_product: .* has no such method; it has .*e2p_product"
    ):
        export_run(combined.path, tmp_path / "none", ["tap_per_product"])


def test_experts_alone_where_no_generator_is_exported(small_run, tmp_path):
    """A run whose only product is of E2P, exported without E2P."""
    run = with_products(small_run, tmp_path / "run", "sasrec", "popularity")
    values = run.read_config()
    values["combine"]["generators"] = ["e2p"]
    made_with(run.path, values)
    export_run(run.path, tmp_path / "out", ["tap_per"])
    service, original = Recommender.load(tmp_path / "out"), Recommender.load(run.path)
    assert list(service.methods.product_names) == ["experts_product"]
    assert answers(service, "experts_product") == answers(original, "experts_product")


def test_playlists_of_a_product_from_an_export_are_the_original_ones(combined, tmp_path):
    export_run(combined.path, tmp_path / "out", ["no_context_product"])
    requests = tmp_path / "asked.parquet"
    rows = {"request_id": ["a", "b", "c"], "user_id": ["u3", "u4", "newcomer"], "query": ["odd", None, None]}
    pq.write_table(pa.table(rows), requests)
    settings = Settings(n=6, method="no_context_product", temperature=1.0, seed=2)
    found = []
    for name, run in (("whole", combined.path), ("export", tmp_path / "out")):
        playlists(run, requests, tmp_path / name, Here(), settings, quiet=True)
        shards = sorted((tmp_path / name).glob("playlists/*.parquet"))
        found.append(pa.concat_tables([pq.ParquetFile(path).read() for path in shards]).to_pylist())
    assert found[0] == found[1]
    assert len(found[0]) == 18
    asked = Recommender.load(tmp_path / "out")
    request = request_of(asked.methods.dataset, asked.live.histories, "u3", "odd", request_id="a")
    alone = asked.method("no_context_product").recommend([request], 6, 1.0, 2)[0]
    ids = asked.methods.dataset.catalogue.item_ids
    assert [row["item_id"] for row in found[0] if row["request_id"] == "a"] == [ids[i] for i in alone.items]


def test_a_product_walks_down_its_ranking_within_caps_and_makes_no_list_in_sequence(combined):
    service = Recommender.load(combined.path)
    data = service.methods.dataset
    request = request_of(data, service.live.histories, "u3", request_id="recommend")
    caps = caps_of(data, {"kind": 2})
    assert caps is not None
    for method in PRODUCTS:
        for temperature in (0.0, 1.0):
            ranking = service.method(method).recommend([request], data.n_items, temperature, 4)[0]
            items = within(ranking, caps, 4).items
            asked = service.recommend(
                "u3", n=4, method=method, temperature=temperature, seed=4, caps={"kind": 2}
            )
            assert [item.item_id for item in asked] == [data.catalogue.item_ids[item] for item in items]
            assert (
                sorted(data.catalogue.columns["kind"][item][0] for item in items)
                == ["Even"] * 2 + ["Odd"] * 2
            )
        with pytest.raises(ValueError, match="ranks items one by one and makes no list in sequence"):
            service.recommend("u3", method=method, sequence=True)
        with pytest.raises(ValueError, match=f"{method} ranks items one by one"):
            refuse_impossible(combined, Settings(method=method, sequence=True))


def test_the_methods_of_playlists_are_those_that_an_export_serves(combined, products_of_nobody, tmp_path):
    export_run(combined.path, tmp_path / "nobody", without_users=True)
    for place in (combined.path, products_of_nobody, tmp_path / "nobody"):
        served = Recommender.load(place).methods.available()
        for method in served:
            refuse_impossible(Run.open(place), Settings(method=method))
        with pytest.raises(ValueError, match=f"it has {', '.join(served)}$"):
            refuse_impossible(Run.open(place), Settings(method="nonsense"))


def test_playlists_of_a_product_go_on_with_no_other_weights(combined, tmp_path):
    run = Run.open(shutil.copytree(combined.path, tmp_path / "run"))
    before = identity_of(run, 0)
    place = run.path / "combine" / "stage.json"
    place.write_text(place.read_text().replace(sha256_of(run.path / "combine" / "combine.json"), "0" * 64))
    assert identity_of(run, 0) != before
