"""Bad rows are set aside with the reason, and files that cannot be used are refused; shards hold every row once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.door.tables import DataError
from serving.answering.requests import answer
from serving.playlists import requests as playlist_requests
from serving.playlists import shards as playlist_shards
from serving.playlists.answers import each_or_why
from serving.playlists.job import playlists
from serving.playlists.requests import Source
from tests.support.engines import Here
from tests.support.playlist_files import SCHEMA, SETTINGS, lists_of, rejected, written

# -- bad rows ------------------------------------------------------------------------------------------------


def test_bad_rows_are_set_aside_with_file_row_and_reason(run, here, tmp_path):
    rows = [
        {"request_id": "good", "user_id": "u1", "query": "even", "exclude": ["i1", "no such item", None]},
        {"request_id": "", "user_id": "u1"},
        {"request_id": None, "user_id": "u1"},
        {"request_id": "none wanted", "user_id": "u1", "n": 0.0},
        {"request_id": "half an item", "user_id": "u1", "n": 2.5},
        {"request_id": "half a second", "user_id": "u1", "time": 5.5},
        {"request_id": "milliseconds", "user_id": "u1", "time": 1_700_000_000_000.0},
        {"request_id": "before time", "user_id": "u1", "time": -1.0},
        {"request_id": "twin", "user_id": "u1", "query": "even"},
        {"request_id": "twin", "user_id": "u1", "query": "even"},
        {"request_id": "rival", "user_id": "u1", "query": "even"},
        {"request_id": "rival", "user_id": "u2", "query": "even"},
        {"request_id": "all excluded", "exclude": [f"i{item}" for item in range(60)]},
        {"request_id": "none allowed", "allow": []},
        {"request_id": "only strangers allowed", "allow": ["no such item"]},
        {"request_id": "stranger", "user_id": "somebody new", "allow": ["i1", "i2", "no such item"]},
    ]  # fmt: skip
    floats = pa.schema([*(SCHEMA.field(name) for name in SCHEMA.names if name not in ("time", "n")),
                        ("time", pa.float64()), ("n", pa.float64())])  # fmt: skip
    written(pa.Table.from_pylist(rows, floats), tmp_path / "requests" / "a" / "one.parquet", row_group_size=3)
    surrogate = pa.array([b"fine", "b\ud800d".encode(errors="surrogatepass"), b"caf\xe9"])
    broken = pa.table({
        "request_id": ["text", "half a pair", "latin"], "user_id": ["u1"] * 3, "query": surrogate,
    })  # fmt: skip
    written(broken, tmp_path / "requests" / "two.parquet")
    manifest = playlists(run, tmp_path / "requests", tmp_path / "out", here, SETTINGS, quiet=True)
    lists, bad = lists_of(tmp_path / "out"), rejected(tmp_path / "out")
    assert sorted(lists) == ["good", "stranger", "text", "twin"]
    assert set(lists["stranger"]["item_id"]) == {"i1", "i2"}
    left = "nothing is left to recommend: every item is excluded, seen, or not among the allowed ones that the catalogue has"
    empty = "request_id is empty; every request needs an id of its own"
    rivals = "request_id is used by 2 rows that differ (the first: a/one.parquet row 11); none is answered"
    no_text = "query is not text: bytes that are not UTF-8 (half a surrogate pair is not)"
    assert [tuple(row) for row in bad.fillna("null").itertuples(index=False)] == [
        ("", "a/one.parquet", 2, empty),
        ("null", "a/one.parquet", 3, empty),
        ("none wanted", "a/one.parquet", 4, "n is 0; ask for a whole number of items, at least one"),
        ("half an item", "a/one.parquet", 5, "n is 2.5; ask for a whole number of items, at least one"),
        ("half a second", "a/one.parquet", 6, "time 5.5 is not a Unix time; expected whole seconds since 1970"),
        ("milliseconds", "a/one.parquet", 7, "time 1700000000000 looks like milliseconds; expected whole seconds since 1970"),
        ("before time", "a/one.parquet", 8, "time -1 is not a Unix time; expected whole seconds since 1970"),
        ("twin", "a/one.parquet", 10, "the same request as a/one.parquet row 9, which is answered"),
        ("rival", "a/one.parquet", 11, rivals),
        ("rival", "a/one.parquet", 12, rivals),
        ("all excluded", "a/one.parquet", 13, left),
        ("none allowed", "a/one.parquet", 14, left),
        ("only strangers allowed", "a/one.parquet", 15, left),
        ("half a pair", "two.parquet", 2, no_text),
        ("latin", "two.parquet", 3, no_text),
    ]  # fmt: skip
    counts = manifest["counts"]
    assert (counts["requests"], counts["answered"], counts["rejected"]) == (19, 4, 15)
    assert (counts["unknown_users"], counts["unknown_items_excluded"], counts["unknown_items_allowed"]) == (
        1,
        1,
        2,
    )


def test_ids_may_be_numbers_and_are_one_with_their_text(run, here, tmp_path):
    written(
        pa.table({"request_id": [5, 6], "user_id": [1.0, float("nan")], "query": [None, None]}),
        tmp_path / "in" / "a.parquet",
    )
    written(pa.table({"request_id": ["5"], "user_id": ["9"], "query": [None]}), tmp_path / "in" / "b.parquet")
    playlists(run, tmp_path / "in", tmp_path / "out", here, SETTINGS, quiet=True)
    assert list(lists_of(tmp_path / "out")) == ["6"]
    assert rejected(tmp_path / "out")["request_id"].tolist() == ["5", "5"]
    table = next(Source(tmp_path / "in").tables(7))
    assert table["user_id"].to_pylist() == ["1", None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"request_id": ["a"], "user_id": ["u"]}, "has no column 'query' .it has request_id, user_id.; requests need"),
        ({"request_id": ["a"], "user_id": ["u"], "query": [7]}, "column 'query' holds int64; expected text"),
        ({"request_id": [True], "user_id": ["u"], "query": ["q"]}, "column 'request_id' holds bool; expected text or whole"),
        ({"request_id": ["a"], "user_id": ["u"], "query": ["q"], "n": ["3"]}, "column 'n' holds string; expected whole numbers"),
        ({"request_id": ["a"], "user_id": ["u"], "query": ["q"], "exclude": ["i1,i2"]}, "column 'exclude' holds string; expected lists"),
        ({"request_id": [], "user_id": [], "query": []}, "holds no requests"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_refused_before_anything_is_written(
    run, here, tmp_path, columns, message
):
    source = written(pa.table(columns), tmp_path / "requests.parquet")
    with pytest.raises(DataError, match=message):
        playlists(run, source, tmp_path / "out", here, SETTINGS)
    assert not (tmp_path / "out").exists()


# -- rows that fail, rows that are large ---------------------------------------------------------------------------


def test_a_request_that_fails_is_set_aside_and_the_others_of_its_batch_are_answered(
    whole, run, here, tmp_path, monkeypatch
):
    source, out, _ = whole
    bad = {"r004", "r012", "r013"}

    def failing(recommender, requests, *options):
        if bad & {request.request_id for request in requests}:
            raise ValueError("no such luck\nwith frames")
        return answer(recommender, requests, *options)

    monkeypatch.setattr("serving.playlists.answers.answer", failing)
    manifest = playlists(run, source, tmp_path / "out", Here(), SETTINGS, quiet=True)
    assert (manifest["counts"]["answered"], manifest["counts"]["rejected"]) == (67, 3)
    why = rejected(tmp_path / "out").set_index("request_id")["reason"]
    assert why.to_dict() == dict.fromkeys(bad, "cannot be answered: ValueError: no such luck")
    expected, found = lists_of(out), lists_of(tmp_path / "out")
    assert expected.keys() - found.keys() == bad
    for id_, frame in found.items():
        assert frame["item_id"].tolist() == expected[id_]["item_id"].tolist()
    monkeypatch.setattr("serving.playlists.answers.answer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # when all of a part fail it is not the rows
        playlists(run, source, tmp_path / "none", Here(), SETTINGS, quiet=True)


def test_what_the_others_get_does_not_depend_on_who_failed_with_them():
    asked = [SimpleNamespace(id=name) for name in "abcdef"]

    def reply(requests, n):
        names = "".join(request.id for request in requests)
        if {"a", "b"} <= set(names) or "d" in names:
            raise RuntimeError(names)
        return [f"{n} of {names}"] * len(requests)

    answers, errors = each_or_why(reply, [*asked[:1], *asked[2:]], 5)
    assert answers == dict.fromkeys([0, 1, 3, 4], "5 of acef")  # the batch once more, without the culprit
    assert {at: str(error) for at, error in errors.items()} == {2: "d"}
    with pytest.raises(RuntimeError, match=r"^ab$"):  # no request fails alone, so none is to blame
        each_or_why(reply, asked[:2], 5)
    for fatal in (MemoryError, KeyboardInterrupt, OSError, torch.OutOfMemoryError):

        def dying(requests, n, fatal=fatal):
            raise fatal

        with pytest.raises(fatal):
            each_or_why(dying, asked, 5)


def test_more_than_1000_items_or_too_many_ids_are_reasons(run, here, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.answering.limits.MOST_IDS", 4)
    rows = [
        {"request_id": "fine", "n": 1000, "exclude": ["i1"] * 4},
        {"request_id": "long", "n": 1001},
        {"request_id": "huge", "n": 2**52},
        {"request_id": "many", "allow": ["i1"] * 5},
    ]
    source = written(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "requests.parquet")
    playlists(run, source, tmp_path / "out", here, SETTINGS, quiet=True)
    assert lists_of(tmp_path / "out")["fine"]["rank"].tolist() == list(range(1, 60))
    assert rejected(tmp_path / "out")["reason"].tolist() == [
        "n is 1001; at most 1000", f"n is {2**52}; at most 1000", "allow has 5 ids; at most 4",
    ]  # fmt: skip


@pytest.mark.parametrize("encoded", [False, True])
def test_rows_are_read_within_bytes_whatever_their_size(tmp_path, monkeypatch, encoded):
    monkeypatch.setattr(playlist_requests, "BATCH_BYTES", 1 << 20)
    count, query = 2000, "q" * 5000  # 10 MB of one text, which a Parquet dictionary holds once
    queries = pa.array([query] * count)
    table = pa.table({
        "request_id": [str(row) for row in range(count)], "user_id": ["u"] * count,
        "query": queries.dictionary_encode() if encoded else queries,
    })  # fmt: skip
    source = written(table, tmp_path / "requests.parquet")
    assert source.stat().st_size < 1 << 20
    tables = list(Source(source).tables(7))
    one = playlist_requests.READ_ROWS * 5100  # rows that are decoded at once are the finest cut
    assert max(some.nbytes for some in tables) < (1 << 20) + one
    assert sum(map(len, tables)) == count
    assert [row for some in tables for row in some["row"].to_pylist()] == list(range(1, count + 1))


def test_bad_rows_pile_up_in_no_shard(run, tmp_path):
    count = 5000
    table = pa.table(
        {"request_id": pa.nulls(count, pa.string()), "user_id": ["u1"] * count, "query": ["q"] * count}
    )
    table = pa.concat_tables(
        [table, pa.table({"request_id": ["good"], "user_id": ["u1"], "query": ["even"]})]
    )
    source = Source(written(table, tmp_path / "requests.parquet"))
    (tmp_path / "dealt").mkdir()
    assert sum(playlist_shards.deal(source, tmp_path / "dealt", 3, 7)) == count + 1
    bad = pq.read_table(tmp_path / "dealt" / "rejected.parquet")
    assert bad["row"].to_pylist() == list(range(1, count + 1))
    shards = [playlist_shards.dealt(tmp_path / "dealt", shard) for shard in range(3)]
    assert sum(Path(shard).stat().st_size for shard in shards) < 20_000


def test_a_shard_is_sorted_as_a_plain_loop_sorts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(playlist_shards, "PIECE_BYTES", 400)
    monkeypatch.setattr(playlist_shards, "PIECE_ROWS", 6)
    monkeypatch.setattr(playlist_shards, "DEALT_BYTES", 300)
    generator, part = np.random.default_rng(3), 5
    rows = []
    for _ in range(200):
        number = int(generator.integers(0, 120))
        odd = generator.random() < 0.15
        rows.append({"request_id": f"r{number}", "user_id": "u1", "query": "x" * (number % 50),
                     "exclude": ["i1", "i2"] if odd else ["i1"]})  # fmt: skip
    source = Source(written(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "requests.parquet"))
    (tmp_path / "dealt").mkdir()
    assert sum(playlist_shards.deal(source, tmp_path / "dealt", 1, 7)) == 200
    names = ["requests.parquet"]
    shard = playlist_shards.dealt(tmp_path / "dealt", 0)
    fine, bad = tmp_path / "fine", tmp_path / "bad"
    assert playlist_shards.sort_shard(shard, names, fine, bad, part)
    answered, reasons = [], []
    for id_ in sorted({row["request_id"] for row in rows}):
        places = [place for place, row in enumerate(rows) if row["request_id"] == id_]
        alike = all(rows[place] == rows[places[0]] for place in places)
        first = f"requests.parquet row {places[0] + 1}"
        answered += [(id_, places[0] + 1)] if alike else []
        why = f"the same request as {first}, which is answered" if alike else (
            f"request_id is used by {len(places)} rows that differ (the first: {first}); none is answered")  # fmt: skip
        reasons += [(id_, place + 1, why) for place in places[alike:]]
    file = pq.ParquetFile(fine)
    table = file.read()
    assert list(zip(table["request_id"].to_pylist(), table["row"].to_pylist(), strict=True)) == answered
    assert [len(e) for e in table["exclude"].to_pylist()] == [
        len(rows[row - 1]["exclude"]) for _, row in answered
    ]
    out = pq.read_table(bad).to_pylist()
    assert [(row["request_id"], row["row"], row["reason"]) for row in out] == reasons
    groups = playlist_shards.groups_of(file.metadata, part)
    cut = [file.read_row_groups(some, ["row"])["row"].to_pylist() for some in groups]
    assert cut == [[row for _, row in answered[at : at + part]] for at in range(0, len(answered), part)]
    assert max(map(len, groups)) > 1  # a part of large rows is in pieces
