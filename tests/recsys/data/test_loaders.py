"""Loaders: tiny copies of each format worked by hand, and the published counts of the real data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from recsys.data.config import EMBEDDED, FILES, PrepareConfig
from recsys.data.loaders import Source, load_amazon, load_lastfm, load_movielens
from recsys.door.notices import Notices
from recsys.door.tables import DataError


def load(source: str, folder: Path, text_columns=None) -> tuple[Source, Notices]:
    notices = Notices()
    paths = {name: folder / file for name, file in FILES[source].items()}
    read = {"ml-latest-small": load_movielens, "amazon": load_amazon, "lastfm": load_lastfm}[source]
    return read(paths, text_columns, notices), notices


def test_the_embedded_movielens_has_the_published_counts():
    source, notices = load("ml-latest-small", EMBEDDED)
    frame = source.interactions.frame
    assert (len(frame), frame["user_id"].nunique(), frame["item_id"].nunique()) == (100_836, 610, 9_724)
    assert len(source.catalogue) == 9_742
    assert len(source.queries) == 3_683
    assert not notices.entries
    toy_story = source.catalogue.index_of("1")
    assert source.catalogue.texts()[toy_story] == (
        "Toy Story (1995). genres: Adventure, Animation, Children, Comedy, Fantasy"
    )
    genres = source.catalogue.columns["genres"]
    assert sum(not item for item in genres) == 34  # "(no genres listed)" is none
    assert not any("no genres listed" in name for item in genres for name in item)
    assert (EMBEDDED / "README.txt").exists()  # the licence travels with the data
    assert "Non-commercial" in (EMBEDDED / "NOTICE.txt").read_text()


def write_amazon(folder: Path, sequences: str) -> Path:
    (folder / "user_sequence.txt").write_text(sequences)
    items = [
        {"item_id": 1, "asin": "B1", "title": "Red polish", "attributes": ["OPI", "Makeup", "Nails"]},
        {"item_id": 2, "asin": "B2", "title": "", "attributes": ["Unknown", "Skin Care", "Face"]},
        {"item_id": 3, "asin": "B3", "attributes": ["Balm"], "llm_text_id": "a text id"},
        {"item_id": 4, "asin": "B4", "attributes": ["Unknown"]},
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    return folder


def test_amazon_by_hand(tmp_path):
    source, notices = load("amazon", write_amazon(tmp_path, "U1 B2 B1 B2\n\nU2 B3\n"))
    assert source.interactions.frame.to_numpy().tolist() == [
        ["U1", "B2", 0],
        ["U1", "B1", 1],
        ["U1", "B2", 2],
        ["U2", "B3", 0],
    ]
    assert source.interactions.place(3).endswith("user_sequence.txt:3")
    assert not source.has_clock
    assert source.catalogue.titles == ["Red polish", "Skin Care Face", "Balm", "B4"]
    assert source.catalogue.columns == {
        "attributes": [["OPI", "Makeup", "Nails"], ["Skin Care", "Face"], ["Balm"], []]
    }
    assert [(notice.reason, notice.count) for notice in notices.entries] == [("titles_from_attributes", 2)]


@pytest.mark.parametrize(
    ("sequences", "problem"),
    [
        ("", "is empty"),
        ("U1 B1\nU2\n", "user_sequence.txt:2: a line needs a user and at least one item"),
        ("U1 B1 B2\nU2 B1\nU1 B2\n", "user_sequence.txt:3: user 'U1' already has a line"),
    ],
)
def test_bad_amazon(tmp_path, sequences, problem):
    with pytest.raises(DataError, match=problem):
        load("amazon", write_amazon(tmp_path, sequences))


def test_text_columns_can_be_chosen(tmp_path):
    source, _ = load("amazon", write_amazon(tmp_path, "U1 B2\nU2 B3\n"), text_columns=[])
    assert source.catalogue.columns == {}
    assert source.catalogue.titles[1] == "Skin Care Face"  # titles are still made of them
    with pytest.raises(DataError, match="'llm_text_id'; the text columns of this data set are: attributes"):
        load("amazon", tmp_path, text_columns=["llm_text_id"])


def write_lastfm(folder: Path, taggings: str) -> Path:
    (folder / "artists.dat").write_text(
        'id\tname\turl\tpictureURL\n7\tMotörhead\tu\tp\n9\t"Weird Al"\tu\tp\n', "utf-8"
    )
    (folder / "tags.dat").write_bytes("tagID\ttagValue\r\n1\tmetal\r\n2\tcafé\r\n".encode("latin-1"))
    header = "userID\tartistID\ttagID\tday\tmonth\tyear\r\n"
    (folder / "user_taggedartists.dat").write_text(header + taggings.replace(" ", "\t"))
    return folder


def test_lastfm_by_hand(tmp_path):
    taggings = "u 7 1 1 4 2009\nu 7 2 1 3 2009\nu 9 1 1 4 2009\nv 9 2 1 6 1956\nv 9 1 2 1 2010\n"
    source, notices = load("lastfm", write_lastfm(tmp_path, taggings))
    march, april, january = (
        int(np.datetime64(day, "s").astype(int)) for day in ("2009-03-01", "2009-04-01", "2010-01-02")
    )
    assert source.interactions.frame.to_numpy().tolist() == [
        ["u", "7", march],
        ["u", "9", april],
        ["v", "9", january],
    ]
    assert source.interactions.place(source.interactions.frame.index[0]).endswith("user_taggedartists.dat:3")
    assert source.queries["query"].to_list() == ["metal", "café", "metal", "metal"]
    assert source.queries["timestamp"].to_list() == [april, march, april, january]
    assert source.catalogue.titles == ["Motörhead", '"Weird Al"']
    (notice,) = notices.entries
    assert (notice.reason, notice.count) == ("impossible_dates", 1)
    assert "user_taggedartists.dat:5" in notice.message


def test_lastfm_refuses_what_is_no_date(tmp_path):
    with pytest.raises(DataError, match=r"user_taggedartists.dat:2: 2009-2-30 is not a date"):
        load("lastfm", write_lastfm(tmp_path, "u 7 1 30 2 2009\n"))


@pytest.fixture
def real() -> Path:
    folder = os.environ.get("PRELUDE_DATA")
    if not folder:
        pytest.skip("PRELUDE_DATA is not set")
    return Path(folder)


@pytest.mark.parametrize(
    ("name", "events", "users", "items", "untitled"),
    [("Beauty", 198_502, 22_363, 12_101, 7), ("Sports", 296_337, 35_598, 18_357, 18_357)],
)
def test_real_amazon(real, name, events, users, items, untitled):
    source, notices = load("amazon", real / "amazon2014" / name)
    frame = source.interactions.frame
    assert (len(frame), frame["user_id"].nunique(), frame["item_id"].nunique()) == (events, users, items)
    assert frame.groupby("user_id").size().min() >= 5
    assert set(frame["item_id"].unique()) == set(source.catalogue.item_ids)
    assert [notice.count for notice in notices.entries] == [untitled]


def test_real_lastfm(real):
    source, notices = load("lastfm", real / "hetrec2011-lastfm-2k")
    frame = source.interactions.frame
    assert abs(len(frame) - 71_064) <= 5  # the published view, less the taggings with impossible dates
    assert (frame.groupby("user_id").size() >= 5).sum() == 1_222
    assert [notice.count for notice in notices.entries] == [5]
    assert len(source.queries) == 186_479 - 5


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"source": "amazon"}, "needs path"),
        ({"source": "amazon", "path": "x", "split": {"kind": "global_time"}}, "order but no time"),
        ({"source": "files"}, "needs interactions"),
        ({"source": "files", "interactions": "x.csv", "path": "y"}, "path is for known data sets"),
        ({"interactions": "x.csv"}, "interactions belongs to source: files"),
        ({"source": "files", "interactions": "x.csv", "columns": {"usr": "u"}}, "columns maps 'usr'"),
        ({"source": "files", "interactions": "x.csv", "columns": {"title": "t"}}, "no file is given"),
        ({"source": "files", "interactions": "x.csv", "text_columns": ["g"]}, "give items too"),
        ({"source": "movies"}, "ml-latest-small"),
        ({"k_cores": 3}, "k_cores"),
    ],
)
def test_contradictory_settings_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        PrepareConfig(**settings)


def test_the_core_follows_the_source():
    assert PrepareConfig().k_core_items == 5
    assert PrepareConfig(source="files", interactions="x.csv").k_core_items == 0
    assert PrepareConfig(source="amazon", path="x").k_core_items == 1
    assert PrepareConfig(k_core_items=0).k_core_items == 0
