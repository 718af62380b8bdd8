"""A small catalogue with its data set, the prompts over it, and what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from llm.prompts.builder import PromptBuilder, PromptConfig
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, TEST

N = 12


TOKENS = 1000 + np.arange(N * 2).reshape(N, 2)  # item i has the tokens 1000 + 2i, 1001 + 2i


BOS = 256


def catalogue() -> Catalogue:
    genres = [["Even" if item % 2 == 0 else "Odd"] for item in range(N)]
    return Catalogue(np.array([f"i{item}" for item in range(N)], object), [f"T{item}" for item in range(N)],
                     {"genres": genres})  # fmt: skip


def builder(**settings) -> PromptBuilder:
    return PromptBuilder(PromptConfig(**settings), catalogue(), lambda text: list(text.encode()), BOS, TOKENS)


def text_of(tokens: list[int]) -> str:
    return bytes(token for token in tokens if 0 <= token < 256).decode()


def dataset(seed: int = 0, n: int = 240) -> Dataset:
    generator = np.random.default_rng(seed)
    users, times = generator.integers(0, 6, n), generator.integers(0, 25, n)  # many ties
    order = np.lexsort((times, users))
    users, times = users[order], times[order]
    roles = np.where(times < 20, FIT, TEST).astype(np.int8)
    queries = pd.DataFrame({"user": [0, 1], "item": [3, 5], "timestamp": [1, 2], "query": ["three", "five"]})
    return Dataset(np.array([f"u{u}" for u in range(6)], object), catalogue(), users, generator.integers(0, N, n),
                   times, np.ones(n, np.float32), roles, queries)  # fmt: skip
