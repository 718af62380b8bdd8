"""The data card: printed within 80 columns with no figure cut, the first section of the report, and silent on nobody's behalf."""

from __future__ import annotations

import io
import json
import os
import re
import shutil

import pytest
from rich.console import Console

from evaluation.report.data_card import NO_CARD, card_sentences, card_tables, print_card
from recsys.artifacts.manifest import rehashed, sha256_of
from recsys.data.dataset import Dataset
from recsys.run import Run
from serving.user_state import delete, remake_report
from tests.support.command_line import prelude

CARD = {
    "rows_read": 1_234_567,
    "rows_kept": 1_200_000,
    "rows_dropped": {"duplicate_rows": 34_000, "min_rating": 567},
    "time": "unix_seconds",
    "time_range": [1_600_784_832, 1_640_000_000],
    "users": 120,
    "items": 90,
    "items_without_events": 8,
    "events": 1_200_000,
    "events_by_kind": {"buy[bold]": 1_100_000, "view\x1b[31m": 100_000},
    "events_against": 321,
    "tied_share": 0.0123,
    "tied_share_of_test": None,
    "largest_user": {"id": "a-user-whose-id-is-long-" * 5, "events": 473, "share": 0.334},
    "largest_user_of_training": {"id": "u1", "events": 400, "share": 0.31},
    "largest_item": {"id": "i[red]7", "events": 99, "share": 0.05},
    "events_a_user": {"0": 1.0, "0.1": 3.0, "0.5": 11.0, "0.9": 30.0, "1": 47_312.0},
    "history_before_test": {},
    "targets": {
        "personalize": {"events": 200, "repeats": 5, "asked_for": 195, "without_history": 1},
        "validation": {"events": 101, "repeats": 93, "asked_for": 8, "without_history": 0},
        "test": {"events": 120, "repeats": 98, "asked_for": 22, "without_history": 2},
    },
    "exclude_seen": True,
    "text_columns": {"genre": 88},
    "items_without_title": 3,
    "queries": 39,
    "queries_of_nobody_known": 4,
    "coverage": [
        {"what": "items of the interactions that the items file describes", "matched": 82, "total": 90, "example": "'i404'"}
    ],
    "readings": ["events.csv: timestamps are read as ISO dates; where no zone is named, UTC"],
}  # fmt: skip
PREPARED = {"card": CARD, "warnings": [{"reason": "x", "count": 2, "message": "2 rows repeat [see] above"}]}
EMBEDDED = {
    "item_coverage": {"what": "v.parquet: items with a vector", "matched": 90, "total": 90, "example": "item 'i1'", "share": 1.0},
    "user_coverage": [{"what": "test instances with a vector from before their moment", "matched": 22, "total": 120, "example": "user 'u9' at 5", "share": 0.1833}],
}  # fmt: skip
FIGURES = (
    "1,234,567", "1,200,000", "34,000", "567", "120", "90 (8 that nobody has had)", "1,100,000", "321",
    "2020-09-22 14:27:12 UTC", "1.2% of all, – of test events", "473 events, 33.4%", "u1: 400 events, 31.0%",
    "i[red]7: 99 events, 5.0%", "47,312", "93", "98", "195", "88 items", "39 (4 of nobody known)", "91.1%", "'i404'",
    "18.3%", "user 'u9' at 5", "ISO dates", "2 rows repeat [see] above", "buy[bold]", "no (exclude_seen)",
)  # fmt: skip


def printed(prepared, embedded=None, width=80) -> str:
    out = io.StringIO()
    print_card(prepared, embedded, Console(file=out, width=width))
    return out.getvalue()


def test_eighty_columns_hold_every_figure():
    text = printed(PREPARED, EMBEDDED)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "\x1b" not in text
    words = " ".join(text.split())
    wide = " ".join(printed(PREPARED, EMBEDDED, 300).split())
    for figure in FIGURES:
        assert figure in wide, figure
        if len(figure) < 15:
            assert figure in words, figure  # no figure is broken over two lines
    assert CARD["largest_user"]["id"] in wide
    assert "item 'i1'" not in wide  # all are covered: there is no first one without


def test_rows_that_were_read_are_kept_or_have_a_reason():
    (_, _, rows), *_ = card_tables(PREPARED)
    assert [(row["what"], row["value"]) for row in rows] == [
        ("rows read", "1,234,567"),
        ("rows kept", "1,200,000"),
        ("left out: duplicate rows", "34,000"),
        ("left out: min rating", "567"),
    ]


def test_an_order_is_no_date():
    text = printed(PREPARED | {"card": CARD | {"time": "ordinal", "time_range": [0, 41]}})
    assert "0 to 41" in text
    assert "UTC" not in text.split("Histories")[0]


def test_a_run_without_a_card_says_so():
    assert card_tables({"counts": {}}) == []
    assert card_sentences({"counts": {}}) == [NO_CARD]
    assert "prepared before data cards were kept" in printed({"counts": {}})


# -- of a whole run ------------------------------------------------------------------------------------------------


def test_inspect_prints_it_and_the_report_begins_with_it(small_run, monkeypatch, capsys):
    run = small_run[1]
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = prelude(monkeypatch, capsys, "inspect", run.path, "--data")
    assert code == 0, err
    card = run.read_json("prepare", "prepare.json")["card"]
    assert re.search(rf"rows read +{card['rows_read']:,}", out)
    assert re.search(
        rf"largest item +{card['largest_item']['id']}: {card['largest_item']['events']} events", out
    )
    assert "perplexity" not in out
    html = (run.path / "report.html").read_text()
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", html)
    assert headings[:2] == ["The verdict", "The data"]
    first = html[html.index(">The data</h2>") : html.index(f">{headings[2]}</h2>")]
    for title, columns, rows in card_tables(run.read_json("prepare", "prepare.json")):
        assert f"<h3>{title}</h3>" in first
        for row in rows:
            for _, key, _ in columns:
                assert f">{row[key] if row[key] else '–'}</t".replace("'", "&#39;") in first, (
                    row
                )  # of a head or a cell


def test_inspect_of_a_run_that_is_only_prepared(tmp_path, small_run, monkeypatch, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "manifest.json", "prepare"):
        source = small_run[1].path / name
        shutil.copytree(source, run / name) if source.is_dir() else shutil.copy(source, run / name)
    code, out, err = prelude(monkeypatch, capsys, "inspect", run, "--data")
    assert code == 0, err
    assert "rows read" in out


@pytest.mark.parametrize("who", ["largest", "named in a coverage"])
def test_a_deleted_person_is_on_no_card(small_run, tmp_path, monkeypatch, who):
    """The largest user is named on the card, and the first user without a vector in embed.json: both names go with them."""
    monkeypatch.setattr("evaluation.report.report._pictures", lambda *given: [])  # which take seconds
    shutil.copytree(small_run[1].path, tmp_path / "copy", copy_function=os.link)
    run = Run.open(tmp_path / "copy")
    before = run.read_json("prepare", "prepare.json")["card"]
    user = before["largest_user"]["id"]
    if who != "largest":
        found = run.read_json("embed", "embed.json") | {
            "user_coverage": [
                {"what": "w", "matched": 1, "total": 2, "example": "user 'u7' at 5: none", "share": 0.5}
            ]
        }
        _replace(run, "embed", "embed.json", json.dumps(found))
        user = "u7"
    delete(run, user)
    assert remake_report(run)
    for path in ("prepare/prepare.json", "embed/embed.json", "report.html"):
        text = re.sub(r"base64,[^\"]*", "", (run.path / path).read_text())
        assert not re.search(rf"\b{user}\b", text), path
    after = run.read_json("prepare", "prepare.json")["card"]
    data = Dataset.load(run)
    assert after["users"] == before["users"] - 1
    assert after["events"] == len(data.users)
    assert after["events_a_user"]["0"] > 0  # the empty place is nobody
    assert (after["rows_read"], after["time_range"]) == (before["rows_read"], before["time_range"])


def _replace(run: Run, stage: str, name: str, text: str) -> None:
    """Write an artifact as if its stage had made it so."""
    path = run.path / stage / name
    path.unlink()
    path.write_text(text)
    records = {place.parent.name: json.loads(place.read_text()) for place in run.path.glob("*/stage.json")}
    for made, record in rehashed(records, {stage: {name: sha256_of(path)}}).items():
        (run.path / made / "stage.json").unlink()
        (run.path / made / "stage.json").write_text(json.dumps(record))
