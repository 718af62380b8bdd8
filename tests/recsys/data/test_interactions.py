"""The door: what it lets in, and that each refusal names file, line, problem and remedy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.catalogue import Catalogue, phrases, read_items
from recsys.data.interactions import read_interactions, read_queries
from recsys.door.notices import Notices
from recsys.door.tables import DataError

HEADER = "user_id,item_id,timestamp\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path, read=read_interactions, **arguments) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **arguments)
    return str(caught.value)


ROWS = [("7", "a", 10), ("8", "b", 20), ("7", "c", 30)]


@pytest.mark.parametrize(
    "name", ["x.csv", "x.tsv", "x.csv.gz", "x.jsonl", "x.json", "x.jsonl.gz", "x.parquet", "X.CSV"]
)
def test_every_format_says_the_same(tmp_path, name):
    lowered = name.lower()
    if lowered.endswith(".parquet"):
        frame = pd.DataFrame(ROWS, columns=["user_id", "item_id", "timestamp"]).astype({"user_id": int})
        frame.to_parquet(tmp_path / name)
    else:
        if ".json" in lowered:
            names = ("user_id", "item_id", "timestamp")
            text = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in ROWS)
        else:
            text = (HEADER + "".join(f"{u},{i},{t}\n" for u, i, t in ROWS)).replace(
                ",", "\t" if "tsv" in name else ","
            )
        write(tmp_path, name, gzip.compress(text.encode()) if name.endswith("gz") else text)
    assert list(read_interactions(tmp_path / name).frame.itertuples(index=False, name=None)) == ROWS


def test_bom_crlf_blank_lines_spaces_and_quotes_are_no_obstacle(tmp_path):
    text = '\ufeffuser_id, item_id ,timestamp\r\n\r\n u1 ,"a,b",10\r\n\r\nu2,c, 20 \r\n'
    frame = read_interactions(write(tmp_path, "x.csv", text)).frame
    assert frame.to_numpy().tolist() == [["u1", "a,b", 10], ["u2", "c", 20]]


def test_ids_stay_text(tmp_path):
    frame = read_interactions(write(tmp_path, "x.csv", HEADER + "007,1e5,1\n7,1E5,2\n")).frame
    assert frame["user_id"].to_list() == ["007", "7"]
    assert frame["item_id"].to_list() == ["1e5", "1E5"]


def test_parquet_and_json_numbers_become_the_same_ids(tmp_path):
    pd.DataFrame({"user_id": [1.0, 2.0], "item_id": [10**17, 2], "timestamp": [5.0, 6.0]}).to_parquet(
        tmp_path / "x.parquet"
    )
    lines = '{"user_id": 1, "item_id": 100000000000000000, "timestamp": 5.0}\n'
    lines += '{"user_id": "2", "item_id": 2.0, "timestamp": 6}'
    expected = [["1", "100000000000000000", 5], ["2", "2", 6]]
    assert read_interactions(tmp_path / "x.parquet").frame.to_numpy().tolist() == expected
    assert read_interactions(write(tmp_path, "x.jsonl", lines)).frame.to_numpy().tolist() == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("yesterday", "'yesterday' is not a Unix time; expected whole seconds"),
        ("2021-01-01T00:00:00Z", "is a date; the rows before are numbers"),
        ("1700000000000", "divide milliseconds by 1000"),
        ("-5", "negative"),
        ("", "timestamp is blank"),
        ("nan", "timestamp is blank"),
        ("inf", "not a Unix time"),
        ("0x10", "not a Unix time"),
        ("99999999999999999999999", "too large"),
        ("1_000", "not a Unix time as digits"),
    ],
)
def test_a_time_is_whole_seconds(tmp_path, text, problem):
    message = refusal(write(tmp_path, "interactions.csv", f"{HEADER}a,b,1\n\nc,d,{text}\n"))
    assert f"{tmp_path}/interactions.csv:4: " in message  # the blank line counts
    assert problem in message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1700000000.0", 1_700_000_000),
        ("1.7e9", 1_700_000_000),
        ("1700000000.5", 1_700_000_000),
        ("1700000000123", 1_700_000_000),
        ("1700000000123456", 1_700_000_000),
        ("1700000000123456789", 1_700_000_000),
        ("20231114", 1_699_920_000),
        ("2023-11-14", 1_699_920_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000),
        ("2023-11-14 22:13:20", 1_700_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000),
        ("2023-11-14T22:13:20.9 UTC", 1_700_000_000),
    ],
)
def test_whole_times_in_other_spellings(tmp_path, text, seconds):
    frame = read_interactions(write(tmp_path, "x.csv", f"{HEADER}a,b,{text}\n")).frame
    assert frame["timestamp"].to_list() == [seconds]


LONG = "".join(f"u{n},i,{n}\n" for n in range(2000))


BAD = {
    "empty.csv": ("", "empty.csv is empty"),
    "blank.csv": ("\n \n", "blank.csv is empty"),
    "header.csv": (HEADER, "no rows"),
    "bare_header.csv": (HEADER.strip(), "no rows"),
    "x.txt": (HEADER + "a,b,1\n", "cannot tell the format"),
    "short.csv": (HEADER + LONG + "a,b\n", "short.csv:2002: 2 field(s), but the header has 3"),
    "long.csv": (HEADER + "a,b,1\na,b,2,3\n", "long.csv:3: 4 field(s)"),
    "open_quote.csv": (HEADER + 'a,"b,1\na,c,2\n', "open_quote.csv:2"),
    "joined_rows.csv": (HEADER + 'a,"b,1\nc,d",2\n', "joined_rows.csv:2"),
    "latin.csv": (HEADER.encode() + b"a,b,1\ncaf\xe9,b,2\n", "latin.csv:3: byte 0xe9 is not UTF-8"),
    "utf16.csv": ((HEADER + "a,b,1\n").encode("utf-16"), "UTF-16"),
    "zero.csv": (HEADER + "a,b,1\na\0,b,2\n", "zero.csv:3: a zero byte"),
    "truncated.csv.gz": (gzip.compress((HEADER + LONG).encode())[:-20], "damaged gzip"),
    "not_gzip.csv.gz": (HEADER, "Not a gzipped file"),
    "not_parquet.parquet": (HEADER, "cannot be read as Parquet"),
    "empty.parquet": ("", "is empty"),
    "twins.csv": ("user_id,user_id,item_id,timestamp\n1,2,3,4\n", "two columns are named 'user_id'"),
    "semicolons.csv": ("user_id;item_id;timestamp\na;b;1\n", "Separate the fields by commas"),
    "case.csv": ("User_ID,item_id,timestamp\na,b,1\n", "columns: {user_id: User_ID}"),
    "headless.csv": ("u1,i1,100\nu2,i2,200\n", "no column 'user_id'; found: u1, i1, 100"),
    "blank_user.csv": (HEADER + "a,b,1\n,b,2\n", "blank_user.csv:3: user_id is blank"),
    "nan_item.csv": (HEADER + "a,NaN,1\n", "nan_item.csv:2: item_id is blank"),
    "tab_in_id.csv": (HEADER + '"a\tb",c,1\n', "control character"),
    "rating.csv": ("user_id,item_id,timestamp,rating\na,b,1,4\na,c,2,good\n", "rating.csv:3: rating 'good'"),
    "weight.csv": ("user_id,item_id,timestamp,weight\na,b,1,0\n", "weight.csv:2: weight 0 is not above 0"),
    "huge.csv": ("user_id,item_id,timestamp,weight\na,b,1,1e39\n", "huge.csv:2: weight '1e39'"),
    "no_weight.csv": ("user_id,item_id,timestamp,weight\na,b,1,\n", "no_weight.csv:2: weight is blank"),
    "broken.jsonl": ('{"user_id": 1, "item_id": 2, "timestamp": 3}\n\n{oops\n', "broken.jsonl:3: not JSON"),
    "array.json": ('[{"user_id": 1}]', "array.json:1: a JSON list; expected one object a line"),
    "list_id.jsonl": ('{"user_id": [1], "item_id": 2, "timestamp": 3}', "list_id.jsonl:1: user_id is [1]"),
    "missing_key.jsonl": (
        '{"user_id": 1, "item_id": 2, "timestamp": 3}\n{"user_id": 1, "item_id": 2}',
        "missing_key.jsonl:2: timestamp is blank",
    ),
    "null.jsonl": ('{"user_id": null, "item_id": 2, "timestamp": 3}', "null.jsonl:1: user_id is blank"),
    "surrogate.jsonl": (
        '{"user_id": "\\ud800", "item_id": 2, "timestamp": 3}',
        "surrogate.jsonl:1: half a character",
    ),
    "digits.jsonl": ('{"user_id": ' + "9" * 5000 + "}", "digits.jsonl:1: not JSON"),
    "deep.jsonl": ("[" * 100_000, "deep.jsonl:1: not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_place(tmp_path, name):
    content, problem = BAD[name]
    message = refusal(write(tmp_path, name, content))
    assert name in message
    assert problem in message


def test_what_is_not_a_file(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a directory" in refusal(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"timestamp": pd.to_datetime(["2020-01-01", "1921-01-01"])},
            "x.parquet row 2: timestamp 1921-01-01",
        ),
        ({"timestamp": pd.to_datetime(["2020-01-01", None])}, "x.parquet row 2: timestamp is blank"),
        ({"timestamp": [1, 1_700_000_000_000]}, "x.parquet row 2: timestamp '1700000000000' is too large"),
        ({"timestamp": [1.0, np.nan]}, "x.parquet row 2: timestamp is blank"),
        ({"item_id": [1.0, np.nan]}, "x.parquet row 2: item_id is blank"),
        ({"user_id": [[1], [2]]}, "column 'user_id' holds list"),
        ({"user_id": [b"\xff", b"a"]}, "column 'user_id' holds binary"),
    ],
)
def test_parquet_columns_of_other_types(tmp_path, change, problem):
    pd.DataFrame({"user_id": [1, 2], "item_id": ["a", "b"], "timestamp": [1, 2], **change}).to_parquet(
        tmp_path / "x.parquet"
    )
    assert problem in refusal(tmp_path / "x.parquet")


def test_damaged_parquet(tmp_path):
    pd.DataFrame({"user_id": [1, 2], "item_id": ["a", "b"], "timestamp": [1, 2]}).to_parquet(
        tmp_path / "x.parquet"
    )
    whole = (tmp_path / "x.parquet").read_bytes()
    assert "cannot be read as Parquet" in refusal(write(tmp_path, "x.parquet", whole[: len(whole) // 2]))
    assert "cannot be read as Parquet" in refusal(
        write(tmp_path, "x.parquet", whole[:20] + b"x" * 40 + whole[60:])
    )


def test_mapped_columns(tmp_path):
    path = write(tmp_path, "x.csv", "uid,iid,ts\na,b,1\n")
    names = {"user_id": "uid", "item_id": "iid", "timestamp": "ts"}
    assert read_interactions(path, names).frame.to_numpy().tolist() == [["a", "b", 1]]
    assert "no column 'stars'; found: uid, iid, ts" in refusal(path, columns={**names, "rating": "stars"})
    assert "mapped to one column, 'uid'" in refusal(path, columns={**names, "item_id": "uid"})


def test_items_may_keep_our_name_for_a_column_mapped_elsewhere(tmp_path):
    path = write(tmp_path, "items.csv", "item_id,title\n1,A\n")
    assert read_items(path, {"item_id": "asin"}).titles == ["A"]
    assert "no column 'asin'" in refusal(path, read_items, columns={"items.item_id": "asin"})


def test_duplicates_are_dropped_and_counted(tmp_path, caplog):
    notices = Notices()
    path = write(tmp_path, "x.csv", HEADER + "a,b,1\nc,d,1\na,b,1\na,b,2\na,b,1\n")
    frame = read_interactions(path, notices=notices).frame
    assert frame.to_numpy().tolist() == [["a", "b", 1], ["c", "d", 1], ["a", "b", 2]]
    notice = notices.entries[-1]
    assert (notice.reason, notice.count) == ("duplicate_rows", 2)
    assert "x.csv:4: 2 row(s) repeat" in notice.message
    assert notice.message in caplog.text


def test_a_rating_may_be_missing(tmp_path):
    frame = read_interactions(write(tmp_path, "x.csv", HEADER[:-1] + ",rating\na,b,1,4.5\na,c,2,\n")).frame
    np.testing.assert_array_equal(frame["rating"], [4.5, np.nan])


# -- items and queries ---------------------------------------------------------------------------------------


def test_items_with_phrases(tmp_path):
    text = (
        'item_id,title,genres,year,tags\n1, Toy  Story ,Comedy|Drama,1995,"[""x"", ""y z""]"\n2,,,1996,[odd\n'
    )
    catalogue = read_items(write(tmp_path, "items.csv", text))
    assert catalogue.titles == ["Toy Story", "2"]  # the id where there is no title
    assert catalogue.columns == {"genres": [["Comedy", "Drama"], []], "tags": [["x", "y z"], ["[odd"]]}
    assert catalogue.texts() == ["Toy Story. genres: Comedy, Drama. tags: x, y z", "2. tags: [odd"]
    assert read_items(tmp_path / "items.csv", text_columns=["year"]).columns == {"year": [["1995"], ["1996"]]}
    assert "no column 'genre'" in refusal(tmp_path / "items.csv", read_items, text_columns=["genre"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("item_id,title\n1,A\n2,B\n1,C\n", "items.csv:4: item_id '1' was already given at"),
        ("item_id,name\n1,A\n", "no column 'title'"),
        ("item_id,title\n,A\n", "items.csv:2: item_id is blank"),
        ('item_id,title\n1,"two\nlines"\n2,"B\n3,C\n4,D\n', "items.csv:4: a quote is left open"),
        ('item_id,title\n1,"B\n3,"C\n4,D\n', "items.csv:2: a quote is left open"),
    ],
)
def test_bad_items(tmp_path, text, problem):
    assert problem in refusal(write(tmp_path, "items.csv", text), read_items)


def test_rows_may_span_lines(tmp_path):
    text = 'item_id,title\n1,"two\nlines"\n\n2,"5"" disk"\n'
    assert read_items(write(tmp_path, "items.csv", text)).titles == ["two lines", '5" disk']
    text = 'item_id,title\n1,"two\nlines"\n\n3,C,D\n'
    assert "items.csv:5: 3 field" in refusal(write(tmp_path, "items.csv", text), read_items)


def test_phrases():
    assert phrases('["a", 1, null]') == ["a", "1"]
    assert phrases(["a|b", None]) == ["a|b"]  # a list is split already
    assert phrases(float("nan")) == phrases(None) == phrases(" | ") == []


def test_catalogue_round_trip_and_unknown_id(tmp_path):
    catalogue = Catalogue(np.array(["a", "b"], dtype=object), ["A", "B"], {"genres": [["x"], []]})
    catalogue.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert (loaded.item_ids.tolist(), loaded.titles, loaded.columns) == (
        ["a", "b"],
        ["A", "B"],
        {"genres": [["x"], []]},
    )
    assert loaded.index_of("b") == 1
    with pytest.raises(DataError, match="no item 'zz'"):
        loaded.index_of("zz")


def test_queries(tmp_path):
    header = "user_id,item_id,timestamp,query\n"
    table = read_queries(write(tmp_path, "q.csv", header + ",a,1,nan bread\nu,b,2,nan\n"))
    assert table["query"].to_list() == ["nan bread", "nan"]  # words, not absence
    assert table["user_id"].isna().to_list() == [True, False]
    assert "q.csv:2: query is blank" in refusal(write(tmp_path, "q.csv", header + "u,a,1,\n"), read_queries)
