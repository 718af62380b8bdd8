"""The report in a real Chromium, opened as the file that it is: folds, sorting, definitions, CSV, the keyboard, paper, 380 pixels, axe."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.report.glossary import TERMS
from evaluation.report.report import Section, write_report
from evaluation.report.verdict import sentences
from evaluation.table.results import Results
from tests.support.browser import browser
from tests.support.small_results import small_results, whole_page

SERIOUS = ("serious", "critical")
FIGURES = "Hit-rate@3 and more, means over users"
EVIL = '=1+1,"x"\n<script>alert(1)</script>'


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    return small_results(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def report(results, tmp_path_factory) -> Path:
    """With every part that a report may have, and text that somebody else wrote."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    columns = [("Row", "name", str), ("value", "value", str)]
    rows = [{"name": EVIL, "value": 0.125}, {"name": "b", "value": "–"}, {"name": "c", "value": 10.0}]
    section = Section("Playlists", ["A sentence."], [("Playlists & more", columns, rows)])
    card = Section(
        "The data", ["Warning: dates."], [("What was read", [("", "name", str), ("", "value", str)], rows)]
    )
    write_report(path, results, **whole_page(), sections=[section], data=card)
    return path


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(params=[1280, 380])
def page(chrome, report, request) -> Iterator[Any]:
    """The page at two widths: light and wide, dark and narrow. Nothing may fail, and nothing is asked of a network."""
    dark = request.param < 1000
    context = chrome.new_context(
        viewport={"width": request.param, "height": 800}, color_scheme="dark" if dark else "light"
    )
    page, wrong, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda found: asked.append(found.url))
    page.goto(report.as_uri())
    yield page
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    assert wrong == []
    context.close()


def fold(page: Any, title: str) -> Any:
    return page.locator(f'details[data-name="{title}"]')


def column(table: Any, place: int) -> list[str]:
    return table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()


def test_the_first_screen_is_the_verdict_and_the_picture(page, results):
    said = page.locator(".verdict dd").all_inner_texts()
    assert said == [one.text for one in sentences(results)]
    assert page.locator(".verdict > div").first.bounding_box()["y"] < 800
    assert page.locator(".dots svg").count() == 2
    drawn = page.locator(".dots").inner_text()
    assert {row["name"] for row in results.rows} <= set(drawn.splitlines())
    assert page.locator(".words-of dt").all_inner_texts()[-3:] == ["tokens", "nats", "t"]
    order = page.locator("h2").all_inner_texts()
    assert order == [
        "The verdict",
        "The data",
        "Five people",
        "Tables",
        "Pictures",
        "Playlists",
        "As recorded",
    ]


def test_tables_are_folded_and_open(page):
    table = fold(page, FIGURES)
    assert not table.locator("table").is_visible()
    table.locator("summary").click()
    assert table.locator("table").is_visible()
    assert "never across" in table.locator(".how").inner_text()
    tops = {round(cell.bounding_box()["y"]) for cell in table.locator("tr.first > *").all()}
    assert len(tops) == 1  # the row of the primary comparison is a row
    page.locator("#all").click()
    assert page.locator("details:not([open])").count() == 0
    page.locator("#all").click()
    assert page.locator("details[open]").count() == 0


def test_a_heading_sorts_by_number_and_the_missing_come_last(page, results):
    table = fold(page, FIGURES)
    table.locator("summary").click()
    head = table.get_by_role("button", name="expected", exact=True)
    head.click()
    rows = {row["name"]: row["expected_hit_rate@3"] for row in results.rows}
    names = column(table, 1)
    values = [rows[name] for name in names if rows[name] is not None]
    assert values == sorted(values, reverse=True)
    assert rows[names[-1]] is None  # Popularity has no draws
    head.click()
    names = column(table, 1)
    assert [rows[name] for name in names][:-1] == values[::-1]
    assert rows[names[-1]] is None
    assert table.locator("th[aria-sort]").count() == 1
    table.get_by_role("button", name="Row", exact=True).click()
    assert column(table, 1) == sorted(rows, key=str.lower)
    ranges = table.get_by_role("button", name="95 % interval", exact=True)
    ranges.click()
    starts = [float(text.split("–")[0]) for text in column(table, 5) if text != "–"]
    assert starts == sorted(starts, reverse=True)


def test_a_heading_says_what_it_means_to_the_mouse_and_to_the_keyboard(page):
    table = fold(page, FIGURES)
    table.locator("summary").click()
    head, tip = table.get_by_role("button", name="nats", exact=True), page.locator("#tip")
    head.hover()
    assert tip.inner_text() == f"nats: {TERMS['nats']}"
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= page.viewport_size["width"]
    page.mouse.move(1, 1)
    assert not tip.is_visible()
    head.focus()
    assert tip.is_visible()
    assert head.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_csv_has_the_digits_as_measured_and_no_formula(page, results):
    table = fold(page, FIGURES)
    table.locator("summary").click()
    with page.expect_download() as waiting:
        table.get_by_role("button", name="Download CSV").click()
    assert waiting.value.suggested_filename == "Hit-rate@3-and-more-means-over-users.csv"
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text(encoding="utf-8-sig"))))
    found = {row["Row"]: row["expected"] for row in rows}
    assert {name: float(text) for name, text in found.items() if text} == {
        row["name"]: row["expected_hit_rate@3"]
        for row in results.rows
        if row["expected_hit_rate@3"] is not None
    }
    assert found["Popularity"] == ""
    other = fold(page, "Playlists & more")
    other.locator("summary").click()
    with page.expect_download() as waiting:
        other.get_by_role("button", name="Download CSV").click()
    first = list(csv.reader(io.StringIO(Path(waiting.value.path()).read_text(encoding="utf-8-sig"))))[1]
    assert first == ['\'=1+1,"x" <script>alert(1)</script>', "0.125"]


def test_the_keyboard_reaches_and_does_everything(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the tables"
    page.keyboard.press("Enter")
    table = fold(page, FIGURES)
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.parentElement.dataset.name") == FIGURES:
            break
    page.keyboard.press("Enter")
    assert table.locator("table").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "csv"
    page.keyboard.press("Tab")  # the table, which scrolls
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert table.locator("thead th").first.get_attribute("aria-sort") == "ascending"


def test_paper_has_everything_unfolded(page):
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    assert fold(page, FIGURES).locator("table").is_visible()
    assert not page.locator("#all").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_window(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.locator("#all").click()
    found = axe.run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS] == []
    assert not page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_one_small_file(report):
    assert report.stat().st_size < 3 << 20
    assert "<script>alert" not in report.read_text()
