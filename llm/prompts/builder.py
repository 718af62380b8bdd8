"""What the model reads: [soft tokens] [BOS] [context] history [query], as token numbers.

    <soft token> <BOS>Profile: likes Drama; enjoyed Heat.\nHistory: <12><201><7><3>…\nQuery: dark comedy

Without a query the next item's codes follow the last item directly, so in Stage 1 every item of a window is a
target in the very form it has at test time. A query stands last, where the model looks first: the items of a
playlist follow it (LOG.md has what it was worth). No chat template and no generation default of the backbone
is used.

A context (`llm.prompts.contexts`) tells in the prompt of what came *before the first item shown*: the shown
items speak for themselves, and a context is then exactly as stale for a window in training as for an instance
at test (and can hold no target).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from llm.backbone.vocabulary import PREFIX
from llm.prompts.config import PromptConfig
from recsys.data.catalogue import Catalogue
from recsys.recommender import Request

PROFILE_READS = 200  # items: how far back a profile looks, a bound on its cost


class Context(Protocol):
    """What a prompt says of a user's past besides the items shown."""

    shown: int | None  # items shown instead of the config's `recent_items` (Full History); None: those

    def tokens(
        self, builder: PromptBuilder, request: Request, shown: np.ndarray, earlier: np.ndarray
    ) -> list[int]:
        """Tokens of the context; `earlier` [e] are the items before those shown, oldest first."""
        ...


class PromptBuilder:
    """Makes prompts from requests.
    `encode` is the backbone's text -> token ids; `item_tokens` [N, W] are what an item is read as, `target_tokens` [N, …]
    what of a target stands behind its prompt in training (None: all of them).
    """

    def __init__(
        self,
        config: PromptConfig,
        catalogue: Catalogue,
        encode: Callable[[str], list[int]],
        bos_id: int | None,
        item_tokens: np.ndarray,
        target_tokens: np.ndarray | None = None,
    ):
        self.config, self.catalogue, self.item_tokens, self.encode = config, catalogue, item_tokens, encode
        self.target_tokens = item_tokens if target_tokens is None else target_tokens
        self._bos = [] if bos_id is None else [bos_id]
        self._newline, self._history = encode("\n"), encode(config.header)
        if not self._bos and not self._history:
            raise ValueError(
                "prompts.header is empty and the backbone has no BOS token: a prompt without history would be empty"
            )

    def shown(self, request: Request, context: Context | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The items that a prompt shows, and those before them."""
        count = self.config.recent_items if context is None or context.shown is None else context.shown
        cut = max(0, len(request.history) - count)
        return request.history[cut:], request.history[:cut]

    def prompt(self, request: Request, context: Context | None = None) -> list[int]:
        """The prompt of a request, without soft tokens (see `with_soft_tokens`)."""
        shown, earlier = self.shown(request, context)
        said = context.tokens(self, request, shown, earlier) if context else []
        return self.head(said) + self.item_tokens[shown].reshape(-1).tolist() + self.asked(request.query)

    def head(self, context: Sequence[int]) -> list[int]:
        """Everything in front of the items."""
        return [*self._bos, *context, *self._history]

    def asked(self, query: str | None) -> list[int]:
        """What stands behind the items: the query, whose last word is then what the next item's first code is
        predicted from.
        """
        if not query or not query.strip():
            return []
        words = " ".join(query.split())
        return self._newline + self.encode(f"Query: {words}")[: self.config.query_tokens]

    def question_about(self, item: int) -> list[int]:
        """`Item: <codes>\nTitle:`, to be answered in words (`llm.stage1.words`)."""
        return [*self._bos, *self.encode("Item:"), *self.item_tokens[item].tolist(), *self.encode("\nTitle:")]

    def with_soft_tokens(self, prompt: list[int], count: int) -> list[int]:
        """The prompt with `count` places for soft tokens where the config puts them."""
        at = 0 if self.config.prefix_position == "before_bos" else len(self._bos)
        return [*prompt[:at], *[PREFIX] * count, *prompt[at:]]

    def line(self, text: str, at_most: int) -> list[int]:
        """A line of text, cut to `at_most` tokens."""
        return self.encode(text)[:at_most] + self._newline

    def profile(self, history: np.ndarray) -> str | None:
        """A user in words, from items oldest first: frequent column values and last titles;
        None without history.
        """
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
