"""Export and import: the same answers to the bit elsewhere, nothing of anybody where that was asked for, damage refused by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from llm.stage1.adapt import adapt
from recsys.artifacts.manifest import rehashed
from recsys.artifacts.user_rows import forget_everyone, is_nothing_but_rows, load_user_rows, save_user_rows
from recsys.data.caps import within
from recsys.data.dataset import Dataset
from recsys.embeddings.sequence_parts import load_item_knn
from recsys.run import Run, RunError, sha256_of
from semantic_ids.tokenize_items import tokenize_items
from serving import Recommender
from serving.answering.requests import caps_of, request_of
from serving.cli import main
from serving.config.combine import CombineConfig
from serving.export import folder as exporting
from serving.export.folder import SUMS, export_run, import_run, verify
from serving.playlists.plan import Settings, identity_of, refuse_impossible
from serving.stages.combine import combine
from tests.test_playlists import Here, playlists

HISTORY = ["i0", "i2", "i6", "i8"]
OF_USERS = {"item_knn", "oppu_lora", "oppu_ia3", "oppu_prompt", "oppu_lora_rag", "oppu_lora_pag", "per_pcs"}


STRANGER = ("anyone", {"n": 6, "history": HISTORY})
NEWCOMER = ("newcomer", {"n": 5})
KNOWN = ("u3", {"n": 5, "temperature": 1.0, "seed": 7, "query": "odd"})


def answers(service: Recommender, method: str, *asked) -> list:
    """The lists of requests: by default a beam for a history, and draws for a user with a query."""
    return [service.recommend(user, method=method, **options) for user, options in asked or (STRANGER, KNOWN)]


@pytest.fixture(scope="module")
def whole(small_run) -> Recommender:
    return Recommender.load(small_run[1].path)


@pytest.fixture(scope="module")
def expected(whole) -> dict[str, list]:
    """What the whole run answers, by method."""
    return {method: answers(whole, method) for method in whole.methods.available()}


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "demo-1"
    export_run(small_run[1].path, out)
    return out


@pytest.fixture(scope="module")
def nobody(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "nobody"
    export_run(small_run[1].path, out, without_users=True)
    return out


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the export that may be spoiled."""
    return shutil.copytree(exported, tmp_path / "copy")


def with_products(small_run, folder, *experts: str) -> Run:
    """A copy of the small run with vectors of texts, and the products of two generators with these experts."""
    config, run = small_run
    run = Run.open(shutil.copytree(run.path, folder))
    path = run.artifact("embed", "item_vectors.safetensors")
    tensors = load_file(path)
    texts = torch.randn(len(tensors["collaborative"]), 8, generator=torch.Generator().manual_seed(5))
    save_file(tensors | {"text": texts}, path)
    records = {place.parent.name: json.loads(place.read_text()) for place in run.path.glob("*/stage.json")}
    changed = {"embed": {"item_vectors.safetensors": sha256_of(path)}}
    for stage, record in rehashed(records, changed).items():
        (run.path / stage / "stage.json").write_text(json.dumps(record))
    config = config.model_copy(update={"combine": CombineConfig(experts=experts, instances=60)})  # type: ignore[arg-type]
    run.write_config(config.model_dump(mode="json"))
    combine(config, run, quiet=True)
    return run


PRODUCTS = ["experts_product", "no_context_product", "e2p_product"]


@pytest.fixture(scope="module")
def combined(small_run, tmp_path_factory) -> Run:
    """With every expert that there is."""
    experts = ("embedding_retrieval", "sasrec", "item_knn", "text", "popularity")
    return with_products(small_run, tmp_path_factory.mktemp("combined") / "run", *experts)


@pytest.fixture(scope="module")
def combined_of_items(small_run, tmp_path_factory) -> Run:
    """With the experts that need no user."""
    experts = ("sasrec", "embedding_retrieval", "text", "popularity")
    return with_products(small_run, tmp_path_factory.mktemp("combined") / "run", *experts)


@pytest.fixture(scope="module")
def products_of_nobody(combined_of_items, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "nobody"
    export_run(combined_of_items.path, out, without_users=True)
    return out


# -- the same answers elsewhere -----------------------------------------------------------------------------------


def test_an_imported_run_answers_as_the_original_does_without_the_data_files(
    small_run, expected, exported, tmp_path
):
    config = small_run[0]
    assert import_run(exported, tmp_path / "far" / "run")
    data_files = [config.prepare.interactions, config.prepare.items, config.prepare.queries]
    for path in data_files:
        os.rename(path, f"{path}.away")
    try:
        service = Recommender.load(tmp_path / "far" / "run")
        assert service.methods.available() == list(expected)
        assert {method: answers(service, method) for method in expected} == expected
    finally:
        for path in data_files:
            os.rename(f"{path}.away", path)


def test_an_export_is_small_says_where_it_comes_from_and_is_the_same_each_time(small_run, exported, tmp_path):
    run = small_run[1]
    again = export_run(run.path, tmp_path / "again")
    assert (tmp_path / "again" / SUMS).read_bytes() == (exported / SUMS).read_bytes()
    all_of_it = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    print(f"export of the small run: {again.bytes / 1024:,.0f} KiB of {all_of_it / 1024:,.0f}")
    assert again.bytes == sum(p.stat().st_size for p in exported.rglob("*") if p.is_file()) < all_of_it / 2
    names = {path.name for path in exported.rglob("*")}
    assert not names & {
        "curves.json",
        "quality.json",
        "report.html",
        "results.json",
        "evaluate",
        "checkpoint",
    }
    said = json.loads((exported / "manifest.json").read_text())["exported"]
    assert said["backbone"] == {
        "name": "tiny-random",
        "sha256": run.read_json("adapt", "adapt.json")["backbone_hash"],
        "weights_are_here": False,
    }
    assert (said["run"], said["without_users"]) == (run.path.name, False)
    assert set(said["methods"]) == set(Recommender.load(exported).methods.available())


def test_only_the_methods_that_were_asked_for_and_what_they_are_built_on(small_run, expected, tmp_path):
    export_run(small_run[1].path, tmp_path / "two", ["e2p", "oppu_ia3"])
    service = Recommender.load(tmp_path / "two")
    trained = [m.key for m in service.methods.config.personalize.methods if m.is_trained]
    assert trained == ["e2p", "mt_lora", "oppu_ia3"]  # OPPU's gains are on top of MT-LoRA
    made = {path.name for path in (tmp_path / "two" / "personalize").iterdir()}
    assert made == {
        "e2p-0.safetensors", "mt_lora-0.safetensors", "oppu_ia3-0", "personalize.json", "stage.json"
    }  # fmt: skip
    for method in ("no_context", "e2p", "oppu_ia3"):
        assert answers(service, method) == expected[method]
    with pytest.raises(ValueError, match="no method 'tap_per'; it has"):
        service.recommend("u3", method="tap_per")
    with pytest.raises(ValueError, match=r"--method e3p: .* has no such method; it has no_context_continued"):
        export_run(small_run[1].path, tmp_path / "three", ["e3p"])


def test_products_and_their_experts_answer_the_same_elsewhere(combined, tmp_path):
    export_run(combined.path, tmp_path / "out")
    import_run(tmp_path / "out", tmp_path / "run")
    original, service = Recommender.load(combined.path), Recommender.load(tmp_path / "run")
    assert service.methods.available() == original.methods.available()
    assert service.methods.available()[-3:] == PRODUCTS
    for method in (*PRODUCTS, "sasrec", "item_knn"):
        asked = (STRANGER, KNOWN, NEWCOMER)
        assert answers(service, method, *asked) == answers(original, method, *asked), method
    said = json.loads((tmp_path / "run" / "manifest.json").read_text())["exported"]["methods"]
    assert sorted(said) == sorted(service.methods.available())


def test_a_product_brings_its_generator_and_leaves_the_others(combined, tmp_path):
    original = Recommender.load(combined.path)
    for wanted, trained, products in (
        (["e2p_product"], ["e2p"], PRODUCTS),
        (["no_context_product"], [], PRODUCTS[:2]),
        (["tap_per", "experts_product"], ["tap_per"], PRODUCTS[:2]),
    ):
        out = tmp_path / wanted[0]
        export_run(combined.path, out, wanted)
        service = Recommender.load(out)
        assert [m.key for m in service.methods.config.personalize.methods if m.is_trained] == trained
        assert list(service.methods.product_names) == products
        weights = json.loads((out / "combine" / "combine.json").read_text())["products"]
        assert len(weights) == len(products)
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
    run.write_config(values)
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


def test_feedback_and_a_second_export_go_on_from_an_imported_run(exported, tmp_path):
    import_run(exported, tmp_path / "run")
    service = Recommender.load(tmp_path / "run")
    before = answers(service, "tap_per", NEWCOMER)
    assert service.update([("newcomer", item, 2_000_000 + at) for at, item in enumerate(HISTORY)]).events == 4
    after = answers(service, "tap_per", NEWCOMER)
    assert after != before
    with pytest.raises(
        RunError, match=r"run/live/events-000001\.parquet is not in SHA256SUMS: it came after"
    ):
        import_run(tmp_path / "run", tmp_path / "other")
    export_run(tmp_path / "run", tmp_path / "second")
    import_run(tmp_path / "second", tmp_path / "other")
    assert answers(Recommender.load(tmp_path / "other"), "tap_per", NEWCOMER) == after


def test_weights_that_were_trained_from_scratch_come_along(small_run, tmp_path):
    config, run = small_run
    own = config.adapt.model_copy(
        update={
            "train": "full", "steps": 2, "validate_every": 2, "asked_queries": 4, "rows_from": "auto",
            "backbone": config.adapt.backbone.model_copy(update={"name": "scratch", "scratch_hidden": 32, "layers": 1}),
        }
    )  # fmt: skip
    trained = Run.create(tmp_path / "trained")
    for stage in ("prepare", "embed", "tokenize"):
        shutil.copytree(run.path / stage, trained.path / stage)
    tokenize_items(config.tokenize, trained)
    adapt(own, trained)
    trained.write_config(config.model_copy(update={"adapt": own}).model_dump(mode="json"))
    summary = export_run(trained.path, tmp_path / "out")
    assert summary.exported["backbone"]["weights_are_here"]
    assert (tmp_path / "out" / "adapt" / "weights.safetensors").exists()
    service, original = Recommender.load(tmp_path / "out"), Recommender.load(trained.path)
    assert "e2p" not in service.methods.available()  # Stage 2 has not run
    assert answers(service, "no_context") == answers(original, "no_context")


def test_summaries_that_a_method_reads_come_along(small_run, tmp_path):
    told = tmp_path / "told.parquet"
    rows = {"user_id": ["u3"], "timestamp": [5], "summary": ["likes what is odd and strange"]}
    pq.write_table(pa.table(rows), told)
    run = Run.open(shutil.copytree(small_run[1].path, tmp_path / "run"))
    values = run.read_config()
    for method in values["personalize"]["methods"]:
        if method["key"] in ("prompt_context", "p2p"):
            method["summaries"] = str(told)
    run.write_config(values)
    before = {key: answers(Recommender.load(run.path), key) for key in ("prompt_context", "p2p")}
    export_run(run.path, tmp_path / "out")
    export_run(run.path, tmp_path / "nobody", ["p2p"], without_users=True)
    told.unlink()
    export_run(tmp_path / "out", tmp_path / "second")
    for place in ("out", "second"):
        service = Recommender.load(tmp_path / place)
        assert {key: answers(service, key) for key in before} == before
    assert not (tmp_path / "nobody" / "outside").exists()
    assert len(Recommender.load(tmp_path / "nobody").recommend("anyone", method="p2p", history=HISTORY)) == 10


# -- without users ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["plain", "with products"])
def test_without_users_no_byte_is_anybodys(small_run, nobody, products_of_nobody, what):
    run, nobody = small_run[1], nobody if what == "plain" else products_of_nobody
    assert (nobody / "combine" / "combine.json").exists() == (what == "with products")
    data = Dataset.load(run)
    states = load_user_rows(run.artifact("personalize", "tap_per-0.safetensors")).rows["p_u"]
    rows_of_users = [row.numpy().tobytes() for row in states if bool(row.any())]
    assert len(rows_of_users) > 20
    times = [int(time).to_bytes(8, "little") for time in data.times[data.times < data.times.max()]]
    seen = set()
    for path in sorted(path for path in nobody.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        assert not any(row in raw for row in rows_of_users), path
        assert not any(time in raw for time in times), path
        seen.add(path.suffix)
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path).read()
            if {"user", "query"} & set(table.column_names):
                assert len(table) == 0, path
            assert not set(table.column_names) & {"user_id"} or table["user_id"].to_pylist() == [""]
        elif path.suffix == ".safetensors":
            tensors = load_file(path)
            assert "users" not in tensors, path
            if "p_u" in tensors:
                assert torch.equal(tensors["p_u"], torch.zeros(1, states.shape[1]))
        else:
            text = raw.decode()
            assert re.search(r"\bu\d+\b", text) is None, path
            years = {int(number) for number in re.findall(r"(?<![.\w])1\d{6}\b", text)}
            assert years <= {int(data.times.max())}, path  # the run's clock
    assert seen >= {".parquet", ".safetensors", ".json", ".yaml"}


def test_without_users_a_history_is_answered_as_the_whole_run_answers_a_stranger(whole, expected, nobody):
    service = Recommender.load(nobody)
    assert set(expected) - set(service.methods.available()) == OF_USERS
    drawn = (STRANGER[0], STRANGER[1] | KNOWN[1])
    for method in service.methods.available():
        assert answers(service, method, STRANGER) == expected[method][:1], method
        assert answers(service, method, NEWCOMER) == answers(whole, method, NEWCOMER), method
    assert answers(service, "tap_per", drawn) == answers(whole, "tap_per", drawn)
    assert service.recommend("anyone", history=HISTORY).path == "personalized"
    assert "is unknown to the run" in service.recommend("u3").path
    with pytest.raises(ValueError, match="exported without users, so there is nothing to measure"):
        Recommender.load(nobody, int8=True).recommend("anyone", history=HISTORY)


def test_without_users_products_of_items_answer_as_the_whole_run_does(combined_of_items, products_of_nobody):
    service, original = Recommender.load(products_of_nobody), Recommender.load(combined_of_items.path)
    drawn = (STRANGER[0], STRANGER[1] | KNOWN[1])
    assert service.methods.available()[-3:] == PRODUCTS
    for method in (*PRODUCTS, "sasrec"):
        asked = (STRANGER, NEWCOMER, drawn)
        assert answers(service, method, *asked) == answers(original, method, *asked), method
    assert len({str(answers(service, method, STRANGER)) for method in PRODUCTS}) == 3


def test_without_users_item_knn_and_products_with_it_are_refused_with_the_reason(combined, tmp_path):
    """Of an item that one person alone had, the most alike items are that person's history."""
    for wanted in (["item_knn"], ["e2p_product"], ["experts_product"]):
        with pytest.raises(
            ValueError, match=f"--method {wanted[0]}.*spells out histories; it needs a run with"
        ):
            export_run(combined.path, tmp_path / "out", wanted, without_users=True)
    assert not list(tmp_path.iterdir())
    export_run(combined.path, tmp_path / "out", without_users=True)
    export_run(tmp_path / "out", tmp_path / "again")
    for place in (tmp_path / "out", tmp_path / "again"):
        service = Recommender.load(place)
        assert not {"item_knn", *PRODUCTS} & set(service.methods.available())
        assert not (place / "combine").exists()
        left_out = " ".join(service.methods.run.manifest()["exported"]["left_out"])
        assert "item_knn, experts_product, no_context_product, e2p_product: item-kNN is counted" in left_out
        with pytest.raises(ValueError, match=r"no method 'item_knn'; .*it needs a run with its users"):
            service.recommend("anyone", method="item_knn", history=HISTORY)
        with pytest.raises(ValueError, match=r"no method 'item_knn'; .*it needs a run with its users"):
            refuse_impossible(service.methods.run, Settings(method="item_knn"))
        config = service.methods.config.embed.item_knn
        with pytest.raises(RunError, match="no events to count item-kNN's pairs in"):
            load_item_knn(service.methods.run, service.methods.dataset, config)


def test_whoever_comes_to_a_run_without_users_is_taken_in(nobody, tmp_path):
    import_run(nobody, tmp_path / "run")
    service = Recommender.load(tmp_path / "run")
    service.update([("first", item, 2_000_000 + at) for at, item in enumerate(HISTORY)])
    assert service.recommend("first").path == "personalized"
    known, asked = (
        service.recommend(user, method="tap_per", n=60, **more)
        for user, more in (("first", {}), ("anyone", {"history": HISTORY}))
    )
    assert [item.score for item in known] != [item.score for item in asked]  # a row of P_u was trained
    export_run(tmp_path / "run", tmp_path / "again")  # it stays without users
    assert "first" not in "".join(map(str, Dataset.load(Run.open(tmp_path / "again")).user_ids))
    assert not (tmp_path / "again" / "live").exists()


def test_a_method_of_nothing_but_rows_of_users_cannot_go_without_them(small_run, tmp_path):
    with pytest.raises(ValueError, match="--method per_pcs is nothing but rows of users"):
        export_run(small_run[1].path, tmp_path / "out", ["per_pcs"], without_users=True)
    assert not list(tmp_path.iterdir())


def test_rows_of_everyone_are_forgotten_in_each_form(tmp_path):
    rows, other = torch.arange(1.0, 9.0).view(4, 2), torch.ones(3)
    save_user_rows(tmp_path / "dense.safetensors", {"p": rows}, others={"w": other})
    save_user_rows(tmp_path / "sparse.safetensors", {"p": rows}, torch.tensor([1, 1, 4, 9]))
    pq.write_table(pa.table({"user_id": ["a", "b"], "x": [1, 2]}), tmp_path / "of.parquet")
    pq.write_table(pa.table({"item": ["a", "b"]}), tmp_path / "items.parquet")
    (tmp_path / "picture.json").write_text(json.dumps({"users": [4, 7], "x": [[1], [2]], "title": "t"}))
    (tmp_path / "new").mkdir()
    for path in [path for path in tmp_path.iterdir() if path.is_file()]:
        forget_everyone(path, tmp_path / "new" / path.name)
    new = tmp_path / "new"
    dense, sparse = load_user_rows(new / "dense.safetensors"), load_user_rows(new / "sparse.safetensors")
    assert torch.equal(dense.rows["p"], torch.zeros(1, 2))
    assert torch.equal(dense.others["w"], other)
    assert sparse.users is not None
    assert (len(sparse.users), sparse.rows["p"].shape) == (0, (0, 2))
    table = pq.ParquetFile(new / "of.parquet").read()
    assert (len(table), table.column_names) == (0, ["user_id", "x"])
    assert (new / "items.parquet").read_bytes() == (tmp_path / "items.parquet").read_bytes()
    assert json.loads((new / "picture.json").read_text()) == {"users": [], "x": [], "title": "t"}
    assert [is_nothing_but_rows(tmp_path / f"{kind}.safetensors") for kind in ("dense", "sparse")] == [0, 1]


# -- damage, kills, places ----------------------------------------------------------------------------------------


def test_a_flipped_byte_of_any_file_is_refused_by_name(combined, tmp_path):
    copy = tmp_path / "copy"
    export_run(combined.path, copy)
    assert {"combine/combine.json", "embed/sasrec_retrieval.safetensors"} <= set(verify(copy))
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        good = path.read_bytes()
        at = len(good) // 2
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(RunError, match=SUMS if path.name == SUMS else re.escape(str(path))):
            import_run(copy, tmp_path / "run")
        path.write_bytes(good)
        assert not list(tmp_path.glob("*run*")), path
    assert import_run(copy, tmp_path / "run")


def test_a_damaged_artifact_is_refused_where_the_folder_is_used_in_place(copy):
    path = copy / "personalize" / "e2p-0.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RunError, match=r"e2p-0\.safetensors does not match its hash"):
        Recommender.load(copy).recommend("u3")


def test_missing_added_and_misplaced_files_are_refused_by_name(copy, tmp_path):
    (copy / "embed" / "more.json").write_text("{}")
    with pytest.raises(RunError, match=r"embed/more\.json is not in SHA256SUMS"):
        verify(copy)
    (copy / "embed" / "more.json").unlink()
    (copy / "adapt" / "sid_rows.safetensors").rename(tmp_path / "away")
    with pytest.raises(RunError, match=r"sid_rows\.safetensors is missing"):
        verify(copy)
    (tmp_path / "away").rename(copy / "adapt" / "sid_rows.safetensors")
    good = (copy / SUMS).read_text()
    (copy / SUMS).write_text(good + f"{'0' * 64}  ../../elsewhere\n")
    with pytest.raises(RunError, match=rf"{SUMS}:{good.count(chr(10)) + 1}: expected"):
        verify(copy)
    (copy / SUMS).unlink()
    with pytest.raises(RunError, match="is no exported run"):
        verify(copy)


def test_a_source_artifact_that_is_damaged_is_not_exported(small_run, tmp_path):
    run = Run.open(shutil.copytree(small_run[1].path, tmp_path / "run"))
    path = run.path / "tokenize" / "semantic_ids.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match=r"semantic_ids\.safetensors does not match its hash"):
        export_run(run.path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("copied", [1, 20, 10**9])
def test_a_kill_leaves_nothing_at_out_and_the_next_export_is_whole(small_run, exported, tmp_path, copied):
    """Killed at the second or 21st file, and right before the rename."""
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        left, real = [copied], shutil.copyfile

        def copy(source, target):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(source, target)

        exporting.shutil.copyfile = copy  # type: ignore[assignment]
        exporting.os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        try:
            export_run(small_run[1].path, out)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert not out.exists()
    export_run(small_run[1].path, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / SUMS).read_bytes() == (exported / SUMS).read_bytes()


def test_a_place_that_is_taken_is_left_alone(small_run, exported, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists, and is not overwritten"):
        export_run(small_run[1].path, tmp_path / "taken")
    with pytest.raises(RunError, match="holds something else; choose another --run"):
        import_run(exported, tmp_path / "taken")
    with pytest.raises(ValueError, match="is inside the run"):
        export_run(small_run[1].path, small_run[1].path / "out")
    assert os.listdir(tmp_path / "taken") == ["mine.txt"]
    (tmp_path / "run").mkdir()  # an empty one is nobody's
    assert [import_run(exported, tmp_path / "run") for _ in range(2)] == [True, False]
    (tmp_path / "run" / "config.yaml").write_text("{}")
    with pytest.raises(RunError, match=r"run/config\.yaml does not match its hash"):
        import_run(exported, tmp_path / "run")


# -- the command line ---------------------------------------------------------------------------------------------


def call(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["prelude", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_commands_say_what_there_is_and_stages_refuse(small_run, tmp_path, monkeypatch, capsys):
    out, run = tmp_path / "out", tmp_path / "run"
    monkeypatch.setenv("COLUMNS", "300")
    assert (
        call(monkeypatch, "export", small_run[1].path, "--out", out, "--method", "e2p", "--without-users")
        == 0
    )
    said = capsys.readouterr().out
    assert "Methods: popularity, recency, embedding_retrieval, sasrec, no_context, prompt_context" in said
    assert "item_knn: item-kNN is counted from users' events" in said
    for words in ("Backbone: tiny-random", "Left out:", "every id and group"):
        assert words in said
    assert call(monkeypatch, "import", out, "--run", run) == 0
    assert "imported as" in capsys.readouterr().out
    assert call(monkeypatch, "import", out, "--run", run) == 0
    assert "holds this export already" in capsys.readouterr().out
    config = (run / "config.yaml").read_bytes()
    for command in (
        ("adapt", run),
        ("evaluate", run),
        ("run", "--run", run),
        ("personalize", run, "--set", "seed=3"),
    ):
        assert call(monkeypatch, *command) == 2
        assert f"{run} was exported for serving" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == config
    assert yaml.safe_load(config)["example"]["user"] is None
    with (
        pytest.raises(RunError, match="was exported for serving"),
        Run.open(run).stage("more", small_run[0].adapt).writing(),
    ):
        pass
    assert call(monkeypatch, "inspect", run) == 2
    assert "without 'quality.json' of stage 'tokenize'" in capsys.readouterr().err
    assert np.isin(["adapt", "embed"], os.listdir(run)).all()
