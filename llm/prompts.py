"""What the model reads: [soft prefix] [BOS] [profile] [query] history, as token numbers.

    <soft token> <BOS>Profile: likes Drama, Crime; enjoyed Fargo; Heat.\nQuery: dark comedy\nHistory: <12><201><7><3>…

The next item's codes follow the last item directly, so in Stage 1 every item of a window is a target in the very form
it has at test time. No chat template and no generation default of the backbone is used.

The text profile is made from the history *before the first item shown*: the shown items speak for themselves, and the
profile is then exactly as stale for a window in training as for an instance at test (and can hold no target).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from llm.vocabulary import PREFIX
from recsys.catalogue import Catalogue
from recsys.config import StageConfig
from recsys.recommender import Request

PROFILE_READS = 200  # items: how far back a profile looks, a bound on its cost


class PromptConfig(StageConfig):
    recent_items: int = 5  # items shown; the same for every method of a table
    profile_values: int = 3  # most frequent values of each text column in a profile
    profile_titles: int = 3  # titles of the last items before the shown ones in a profile
    profile_tokens: int = 48  # cut of the profile
    query_tokens: int = 64  # cut of the query, whatever its length in characters
    prefix_position: Literal["before_bos", "after_bos"] = (
        "before_bos"  # the paper leaves it open; eq. 3 says first
    )


class PromptBuilder:
    """Makes prompts from requests. `encode` is the backbone's text -> token ids; `item_tokens` [N, L] its ID tokens."""

    def __init__(
        self,
        config: PromptConfig,
        catalogue: Catalogue,
        encode: Callable[[str], list[int]],
        bos_id: int | None,
        item_tokens: np.ndarray,
    ):
        self.config, self.catalogue, self.item_tokens = config, catalogue, item_tokens
        self._encode = encode
        self._bos = [] if bos_id is None else [bos_id]
        self._newline, self._history = encode("\n"), encode("History:")

    def prompt(self, request: Request, profile: bool = False, soft_tokens: int = 0) -> list[int]:
        """The whole prompt of a request; `soft_tokens` PREFIX places are put where the config says."""
        shown = request.history[max(0, len(request.history) - self.config.recent_items) :]
        earlier = request.history[: len(request.history) - len(shown)]
        head = self.head(self.profile(earlier) if profile else None, request.query, soft_tokens)
        return head + self.item_tokens[shown].reshape(-1).tolist()

    def head(self, profile: str | None, query: str | None, soft_tokens: int = 0) -> list[int]:
        """Everything in front of the items."""
        soft = [PREFIX] * soft_tokens
        before = self.config.prefix_position == "before_bos"
        tokens = [*soft, *self._bos] if before else [*self._bos, *soft]
        if profile:
            tokens += self._encode(f"Profile: {profile}")[: self.config.profile_tokens] + self._newline
        if query and query.strip():
            words = " ".join(query.split())
            tokens += self._encode(f"Query: {words}")[: self.config.query_tokens] + self._newline
        return tokens + self._history

    def profile(self, history: np.ndarray) -> str | None:
        """A user in words, from items oldest first: frequent column values and last titles; None without history."""
        history = history[-PROFILE_READS:]
        if len(history) == 0:
            return None
        parts = []
        for values in self.catalogue.columns.values():
            counts = Counter(value for item in history for value in values[item])
            # ties by name, so that the text does not depend on the order of a dict
            top = sorted(counts, key=lambda value: (-counts[value], value))[: self.config.profile_values]
            if top:
                parts.append(", ".join(top))
        titles = [self.catalogue.titles[item] for item in history[::-1][: self.config.profile_titles]]
        return (
            f"likes {'; '.join(parts)}; enjoyed {'; '.join(titles)}."
            if parts
            else f"enjoyed {'; '.join(titles)}."
        )

    def profile_token_count(self, requests: Sequence[Request]) -> float:
        """Mean number of tokens that the profile adds to a prompt."""
        added = [len(self.prompt(request, profile=True)) - len(self.prompt(request)) for request in requests]
        return float(np.mean(added)) if added else 0.0
