"""The end of a run on the terminal: nothing is cut, at any width, in a pipe, or of long names."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evaluation.report.tables import rate
from evaluation.report.terminal import five_columns, print_table
from evaluation.report.verdict import sentences
from evaluation.table.results import Results
from tests.support.small_results import small_results


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    return small_results(tmp_path_factory.mktemp("terminal"))


def printed(results: Results, width: int | None) -> str:
    out = io.StringIO()  # no terminal: a pipe
    print_table(results, Console(file=out, width=width) if width else Console(file=out))
    return out.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [20, 40, 80, 200, None])
def test_five_columns_whose_figures_no_width_cuts(results, width, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    text = printed(results, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= max(width or 80, 40)
    _, columns, rows = five_columns(results)
    assert len(columns) == 5
    for row in rows:
        for key in ("top3", "expected_hit_rate@3"):
            assert rate(row[key]) in text.split()
    assert sum("──" in line for line in text.splitlines()) == 1  # one table
    for one in sentences(results):
        assert words(one.text) in words(text)
    assert "named before the run: E2P against Static Prefix" in words(text)
    assert "prelude explain" in words(text)


@pytest.mark.parametrize("width", [40, 80])
def test_long_names_are_folded_and_twelve_rows_are_shown(results, width):
    names = [f"A row of a name that is much too long × {at}" for at in range(20)]
    many = [*results.rows, *(results.rows[0] | {"name": name, "top3": 0.99} for name in names)]
    text = printed(Results(results.protocol, many, results.primary, results.effects), width)
    assert "…" not in text
    assert text.split().count(".9900") == 12 - 5  # and the five that are always there
    assert f"{len(many) - 12} more rows" in words(text)
    assert max(map(len, text.splitlines())) <= width


def test_a_row_whose_sampler_disagrees_is_red(results):
    bad = [row | {"sampled_agrees": False} for row in results.rows]
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system="standard")
    print_table(Results(results.protocol, bad, results.primary, results.effects), console)
    assert "E2P" in out.getvalue()
