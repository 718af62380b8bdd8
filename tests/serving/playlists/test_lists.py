"""What a playlist run writes: the lists of `recommend`, whatever the order, files or columns of the requests."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.run import Run
from serving.answering.recommender import Recommender
from serving.answering.requests import request_of
from serving.playlists.answers import Row, micro_batches
from serving.playlists.job import playlists
from serving.playlists.plan import Settings, refuse_impossible
from tests.support.playlist_files import SETTINGS, bytes_of, lists_of, written

# -- what comes out ------------------------------------------------------------------------------------------


def test_every_request_is_answered_as_recommend_answers_it(whole, run):
    source, out, manifest = whole
    lists, service = lists_of(out), Recommender.load(run)
    table = pq.read_table(source).to_pylist()
    assert sorted(lists) == [row["request_id"] for row in table]
    catalogue = service.methods.dataset.catalogue
    for row in table:
        found = lists[row["request_id"]]
        request = request_of(
            service.methods.dataset, service.live.histories, row["user_id"], (row["query"] or "").strip() or None, row["time"],
            exclude=row["exclude"] or (), allow=row["allow"], request_id=row["request_id"],
        )  # fmt: skip
        n = min(row["n"] or SETTINGS.n, 60)
        (alone,) = service.method("e2p").recommend([request], n, SETTINGS.temperature, SETTINGS.seed)
        assert found["rank"].tolist() == list(range(1, len(found) + 1))
        assert found["item_id"].tolist() == [str(catalogue.item_ids[item]) for item in alone.items]
        np.testing.assert_allclose(found["score"], alone.scores, rtol=2e-5)
        assert found["item_id"].is_unique
        assert not set(found["item_id"]) & set(row["exclude"] or ())
        allowed = set(row["allow"] or catalogue.item_ids) - set(row["exclude"] or ())
        assert set(found["item_id"]) <= allowed
        assert len(found) == min(n, len(allowed))  # more than there is gives what there is
    assert manifest["counts"]["answered"] == len(table) == manifest["counts"]["requests"]
    assert manifest["counts"]["items"] == sum(map(len, lists.values()))
    users = [row["user_id"] for row in table]
    assert manifest["counts"]["nobody"] == users.count(None)
    assert manifest["counts"]["unknown_users"] == sum(u is not None and int(u[1:]) >= 40 for u in users) > 0


def test_the_manifest_says_what_the_files_are_and_nothing_else_is_left(whole, run):
    _, out, manifest = whole
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "manifest.json", "playlists", "rejected",
    ]  # fmt: skip
    assert {f"playlists/{name}": digest for name, digest in bytes_of(out).items()} == {
        name: entry["sha256"] for name, entry in manifest["results"].items()
    }
    assert len(manifest["results"]) > manifest["cut"]["shards"] > 1
    assert manifest["last_call"]["answered"] == 70
    assert manifest["last_call"]["requests_per_second"] > 0
    assert manifest["last_call"]["peak_bytes_sum"] > manifest["last_call"]["peak_bytes_worker"] > 1 << 20


def test_micro_batches_are_of_one_n_and_in_order():
    rows = [Row(place, None, n) for place, n in enumerate([5, 3, 5, 5, 3, 4])]
    cut = [(n, [row.place for row in some]) for n, some in micro_batches(rows, 2)]
    assert cut == [(5, [0, 2]), (3, [1, 4]), (4, [5]), (5, [3])]


def test_temperature_0_is_best_first_and_a_seed_draws_anew(whole, run, here, tmp_path):
    source, out, _ = whole
    best = Settings(n=7, batch=4, temperature=0.0, method="embedding_retrieval")
    playlists(run, source, tmp_path / "best", here, best, quiet=True)
    service = Recommender.load(run)
    rows = {row["request_id"]: row for row in pq.read_table(source).to_pylist()}
    some = rows["r001"]
    found = service.recommend(some["user_id"], some["query"], some["n"], method="embedding_retrieval")
    assert lists_of(tmp_path / "best")["r001"]["item_id"].tolist() == [item.item_id for item in found]
    other = Settings(n=7, batch=4, seed=4)
    playlists(run, source, tmp_path / "other", here, other, quiet=True)
    lists, again = lists_of(out), lists_of(tmp_path / "other")
    assert sum(lists[r]["item_id"].tolist() != again[r]["item_id"].tolist() for r in lists) > 35


def test_caps_sequence_order_and_strength_are_those_of_recommend(whole, run, here, tmp_path):
    source, _, _ = whole
    options = {"sequence": True, "caps": {"kind": 2}, "order": "smooth", "strength": 0.5, "temperature": 0.0}
    settings = Settings(n=7, batch=4, method="e2p", **options)
    playlists(run, source, tmp_path / "out", here, settings, quiet=True)
    lists, service = lists_of(tmp_path / "out"), Recommender.load(run)
    assert len(lists) == 70
    assert max(map(len, lists.values())) == 4  # two of each kind
    plain = 0
    for row in pq.read_table(source).to_pylist()[:20]:
        asks = {"time": row["time"], "exclude": row["exclude"] or (), "allow": row["allow"], "method": "e2p"}
        n = min(row["n"] or 7, 60)
        found = service.recommend(row["user_id"], row["query"], n, **asks, **options)
        assert lists[row["request_id"]]["item_id"].tolist() == [item.item_id for item in found]
        unordered = service.recommend(
            row["user_id"], row["query"], n, **asks, **options | {"order": "as made"}
        )
        plain += [item.item_id for item in unordered] != [item.item_id for item in found]
    assert plain > 3  # the order has been at work


# -- the same bytes ------------------------------------------------------------------------------------------


def test_order_partitioning_and_kinds_of_columns_change_no_byte(whole, run, here, tmp_path):
    source, out, _ = whole
    table = pq.read_table(source)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    parts = tmp_path / "parts"
    written(shuffled.slice(0, 13), parts / "day=1" / "a.parquet", row_group_size=5)
    written(shuffled.slice(13, 1), parts / "day=1" / "deeper" / "b.parquet")
    kinds = shuffled.slice(14).set_column(
        0, "request_id", shuffled["request_id"].slice(14).dictionary_encode()
    )
    numbers = kinds["n"].cast(pa.float64()).fill_null(float("nan"))  # as pandas writes
    kinds = kinds.set_column(4, "n", numbers)
    kinds = kinds.set_column(2, "query", kinds["query"].cast(pa.large_string()))
    written(kinds, parts / "c.parquet", row_group_size=11)
    written(shuffled.slice(0, 0), parts / "empty.parquet")
    (parts / "_SUCCESS").touch()
    (parts / "_temporary.parquet").write_bytes(b"half a file")
    playlists(run, parts, tmp_path / "out", here, SETTINGS, quiet=True)
    assert bytes_of(tmp_path / "out") == bytes_of(out)


def test_the_methods_that_are_taken_are_those_that_are_served(run):
    served = Recommender.load(run).methods.available()
    for method in served:
        refuse_impossible(Run.open(run), Settings(method=method))
    with pytest.raises(ValueError, match=f"it has {', '.join(served)}$"):
        refuse_impossible(Run.open(run), Settings(method="nonsense"))
