"""Profiles and their encoder's stand-in for the tests of P2P."""

from __future__ import annotations

import numpy as np

from llm.methods.p2p.profiles import ProfileText
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.contexts import RecordSearch
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.recommender import Request
from tests.support.prompts import dataset

KINDS = ("summary_and_records", "summary_only", "retrieved_only", "full_history", "shuffled")


DIM = 12


def catalogue() -> Catalogue:
    titles = [
        "Alien",
        "Fargo",
        "Heat",
        "Brazil",
        "Dune",
        "Solaris",
        "Gravity",
        "Contact",
        "Moon",
        "Sunshine",
        "Up",
        "Cars",
    ]
    genres = [["Horror", "Space"], ["Crime"], ["Crime"], ["Comedy"], ["Space"], ["Space"], ["Space"], ["Space"], ["Space"],
              ["Space"], ["Children"], []]  # fmt: skip
    return Catalogue(np.array([f"i{n}" for n in range(12)], object), titles, {"genres": genres})


def builder(**settings) -> PromptBuilder:
    settings = {"recent_items": 1, "profile_values": 1, "profile_titles": 2} | settings
    tokens = 1000 + np.arange(24).reshape(12, 2)
    return PromptBuilder(PromptConfig(**settings), catalogue(), lambda text: list(text.encode()), 256, tokens)


def maker(kind, k: int = 2, summaries=None, data: Dataset | None = None, **settings) -> ProfileText:
    some = data if data is not None else dataset()
    return ProfileText(kind, k, builder(**settings), RecordSearch(catalogue()), some, summaries)


def asks(history, query=None, user=0, time=100) -> Request:
    return Request("r", user, time, np.array(history, np.int64), np.arange(len(history)), query)


# -- vectors ----------------------------------------------------------------------------------------------------


def letters(texts) -> np.ndarray:
    """An encoder to count with: how often each of twelve letters occurs, at length 1."""
    counts = np.array([[text.count(letter) for letter in "aeioumnrstlc"] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)
