"""An export without users: no byte is anybody's, and whoever comes is a stranger."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from recsys.artifacts.paths import RunError
from recsys.artifacts.user_rows import forget_everyone, is_nothing_but_rows, load_user_rows, save_user_rows
from recsys.data.dataset import Dataset
from recsys.embeddings.sequence_parts import load_item_knn
from recsys.run import Run
from serving import Recommender
from serving.export.folder import export_run, import_run
from serving.playlists.plan import Settings, refuse_impossible
from tests.support.exports import HISTORY, KNOWN, NEWCOMER, OF_USERS, PRODUCTS, STRANGER, answers

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
    assert [name for name in service.methods.available() if name in PRODUCTS] == PRODUCTS
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
