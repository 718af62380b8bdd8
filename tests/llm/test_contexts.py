"""Personal context in prompts: BM25 by hand and by its formula, RAG, PAG, Full History, summaries from a file."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import TypeAdapter

from llm.methods.prompting import PromptMethod
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.contexts import FullHistory, Joined, Profile, Records, RecordSearch, Summaries
from recsys.data.catalogue import Catalogue
from recsys.recommender import Request

TITLES = ["alien planet", "deep sea", "alien sea sea", "quiet garden", "garden party", "sea storm"]


TOKENS = 1000 + np.arange(12).reshape(6, 2)


def catalogue() -> Catalogue:
    return Catalogue(np.array([f"i{n}" for n in range(6)], object), list(TITLES), {})


def builder(**settings) -> PromptBuilder:
    return PromptBuilder(PromptConfig(**settings), catalogue(), lambda text: list(text.encode()), 256, TOKENS)


def slow_bm25(query: str, document: str, k1: float = 1.5, b: float = 0.75) -> float:
    """Lucene's BM25 over TITLES, term by term (bm25s's default)."""
    documents = [title.split() for title in TITLES]
    words = document.split()
    mean = sum(map(len, documents)) / len(documents)
    total = 0.0
    for term in query.split():
        having = sum(term in one for one in documents)
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        count = words.count(term)
        total += idf * count / (count + k1 * (1 - b + b * len(words) / mean))
    return total


@pytest.mark.parametrize("query", ["sea", "alien sea", "garden storm"])
def test_retrieval_ranks_as_the_formula_does(query):
    records = np.array([3, 1, 0, 2, 5, 4])
    found = RecordSearch(catalogue()).best(query, records, 6)
    ours = [slow_bm25(query, TITLES[records[place]]) for place in found]
    assert ours == sorted(ours, reverse=True)
    assert sorted(found.tolist()) == list(range(6))


def test_repeats_count_once_where_they_occur_last_and_unknown_words_give_the_latest():
    search = RecordSearch(catalogue())
    assert search.best("garden", np.array([3, 1, 3, 2]), 2).tolist() == [
        2,
        3,
    ]  # item 3 at its last place, then the newest
    assert search.best("zebra", np.array([3, 1, 2]), 2).tolist() == [2, 1]
    assert search.best("sea", np.zeros(0, np.int64), 2).tolist() == []
    assert search.best("sea", np.array([1]), 0).tolist() == []


def request(query: str | None = None) -> Request:
    history = np.array([3, 5, 0, 1, 4, 2])
    return Request("r", 0, 99, history, np.arange(6), query)


def text_of(tokens: list[int]) -> str:
    return bytes(token for token in tokens if 0 <= token < 256).decode()


def test_rag_shows_the_best_earlier_records_and_never_the_shown_ones():
    """Shown are garden party and alien sea sea; of [garden, storm, alien, deep] the query “sea” finds deep sea and sea storm."""
    rag = Records(RecordSearch(catalogue()), 2)
    tokens = builder(recent_items=2).prompt(request("sea"), rag)
    items = [token for token in tokens if token >= 1000]
    # both have one “sea” in two words: of equals the later one is best, and the best stands last, next to the history
    assert items == [*TOKENS[5], *TOKENS[1], *TOKENS[4], *TOKENS[2]]
    assert text_of(tokens) == "Related:\nHistory:\nQuery: sea"


def test_without_words_the_shown_items_are_the_query():
    rag = Records(RecordSearch(catalogue()), 1)
    tokens = builder(recent_items=1).prompt(request(), rag)  # shown: alien sea sea
    wanted = max(
        (4, 1, 0, 5, 3), key=lambda item: slow_bm25("alien sea sea", TITLES[item])
    )  # of equals the later
    assert [token for token in tokens if token >= 1000][:2] == TOKENS[wanted].tolist()


def test_pag_is_the_profile_and_then_the_records():
    pag = Joined((Profile(), Records(RecordSearch(catalogue()), 1)))
    text = text_of(builder(recent_items=2, profile_titles=1).prompt(request(), pag))
    assert text == "Profile: enjoyed deep sea.\nRelated:\nHistory:"


def test_full_history_shows_as_many_as_fit():
    tokens = builder(recent_items=2).prompt(request(), FullHistory(4))
    assert [token for token in tokens if token >= 1000] == TOKENS[[0, 1, 4, 2]].reshape(-1).tolist()


def test_a_summary_stands_in_for_the_template_for_its_user_and_from_its_moment_on():
    profile = Profile(
        Summaries([(0, 50, "an early sea person"), (0, 99, "a sea person"), (0, 100, "knows the answer")])
    )
    assert text_of(builder().prompt(request(), profile)).startswith("Profile: a sea person\n")
    other = Request("r", 1, 99, np.array([3, 1, 2, 4, 5, 0, 1]), np.arange(7))
    assert "enjoyed" in text_of(builder(recent_items=2).prompt(other, profile))


def test_a_prompt_method_is_a_name_or_settings():
    adapter = TypeAdapter(PromptMethod)
    assert adapter.validate_python("rag").k == 2
    assert adapter.validate_python({"method": "pag", "k": 4}).k == 4
