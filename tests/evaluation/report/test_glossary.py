"""Every heading of a table has a meaning, and `prelude explain` says the same."""

from __future__ import annotations

import pytest

from evaluation.report.glossary import ALIASES, FIRST_SCREEN, PATTERNS, TERMS, explain, term_of
from evaluation.report.tables import all_tables
from evaluation.report.terminal import five_columns
from tests.support.small_results import small_results


def test_every_heading_of_a_figure_is_explained(tmp_path):
    results = small_results(tmp_path)
    tables = [*all_tables(results), five_columns(results)]
    left = {
        heading
        for title, columns, _ in tables
        if not title.startswith("By ")
        for heading, _, _ in columns
        if term_of(heading) is None
    }
    assert left == {"by", "Against"}


@pytest.mark.parametrize(
    "word", ["nats", "No Context", "t", "tokens", "prefix", "no context", "R@10", "top 30", "p, Holm"]
)
def test_words_are_found_however_they_are_written(word):
    term, meaning = explain(word)
    assert meaning == TERMS[term]


def test_an_unknown_word_names_those_that_there_are():
    with pytest.raises(ValueError, match="no entry for 'nat'; there are hit-rate@n, ranked"):
        explain("nat")


def test_aliases_lead_to_terms():
    assert {*ALIASES.values(), *(term for _, term in PATTERNS), *FIRST_SCREEN} <= TERMS.keys()
