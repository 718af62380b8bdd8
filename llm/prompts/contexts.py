"""Personal context in words and semantic IDs: profile, retrieved records (RAG), both (PAG), or a history.

All of them read only what came before the items that the prompt shows anyway, so none can hold a target
(`llm.prompts.builder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from llm.prompts.builder import PromptBuilder
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.door.times import one_moment
from recsys.door.values import one_id
from recsys.recommender import Request


class RecordSearch:
    """BM25 (by `bm25s`) over what is known of items in words: which of a user's records fit a query?

    A record is an item of the user's past. Term statistics are the catalogue's, so a score says the same for
    every user.
    """

    def __init__(self, catalogue: Catalogue):
        import bm25s

        self._texts = catalogue.texts()
        self._index = bm25s.BM25()
        self._index.index(_words(self._texts), show_progress=False)

    def query(self, request: Request, shown: np.ndarray) -> str:
        """What is looked for: the request's own words, else what the shown items are."""
        words = " ".join((request.query or "").split())
        return words or " ".join(self._texts[item] for item in shown)

    def best(self, query: str, records: np.ndarray, k: int) -> np.ndarray:
        """Places in `records` [n] (items, oldest first) of the k that fit best, best first;
        of equals the later one.

        An item that occurs more than once counts once, where it occurs last.
        """
        last = {item: place for place, item in enumerate(records.tolist())}
        places = np.array(sorted(last.values(), reverse=True), dtype=np.int64)
        terms = [word for word in _words([query])[0] if word in self._index.vocab_dict]
        if not terms:
            return places[:k]
        scores = self._index.get_scores(terms)[records[places]]
        return places[np.argsort(-scores, kind="stable")[:k]]


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)


class Summaries:
    """Summaries written elsewhere, each from a user's events strictly before its moment."""

    def __init__(self, rows: Sequence[tuple[int, int, str]]):
        """`rows`: user integer, moment (unix seconds), text."""
        self._of: dict[int, list[tuple[int, str]]] = {}
        for user, moment, text in sorted(rows):
            self._of.setdefault(user, []).append((moment, text))

    def at(self, user: int | None, time: int) -> str | None:
        """The latest summary of a moment that is not after `time`: a later one may hold what is asked for."""
        known = [text for moment, text in self._of.get(-1 if user is None else user, ()) if moment <= time]
        return known[-1] if known else None

    @classmethod
    def read(cls, path: Path, dataset: Dataset) -> Summaries:
        """Parquet with user_id, summary and timestamp.
        Raises `ValueError` naming the file and what is wrong with it.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file; summaries are Parquet: user_id, timestamp, summary")
        rows = pq.ParquetFile(path).read()
        missing = [name for name in ("user_id", "summary") if name not in rows.column_names]
        if missing:
            raise ValueError(
                f"{path}: column {missing[0]!r} is missing; found {', '.join(rows.column_names)}"
            )
        if "timestamp" not in rows.column_names:
            raise ValueError(
                f"{path}: column 'timestamp' is missing (unix seconds; the summary holds only events before it): a summary that has "
                "seen what is asked for would hand over the answer"
            )
        names = [one_id(user) for user in rows["user_id"].to_pylist()]
        users = [None if name is None else dataset.user_index(name) for name in names]
        given = zip(users, rows["timestamp"].to_pylist(), rows["summary"].to_pylist(), strict=True)
        return cls(
            [
                (user, one_moment(moment, f"{path}: timestamp"), text)
                for user, moment, text in given
                if user is not None and text
            ]
        )


@dataclass
class Profile:
    """The text profile: `PromptBuilder.profile` of what came before the shown items,
    or a summary written elsewhere.

    A user without a summary of a moment up to the request's gets the template.
    """

    summaries: Summaries | None = None
    shown: int | None = None

    def tokens(
        self, builder: PromptBuilder, request: Request, shown: np.ndarray, earlier: np.ndarray
    ) -> list[int]:
        given = self.summaries.at(request.user, request.time) if self.summaries else None
        text = given or builder.profile(earlier)
        return builder.line(f"Profile: {text}", builder.config.profile_tokens) if text else []


@dataclass
class Records:
    """RAG: the k earlier records that fit the query best (BM25), as semantic IDs, the best one last
    (nearest to the history).
    """

    search: RecordSearch
    k: int
    shown: int | None = None

    def tokens(
        self, builder: PromptBuilder, request: Request, shown: np.ndarray, earlier: np.ndarray
    ) -> list[int]:
        found = earlier[self.search.best(self.search.query(request, shown), earlier, self.k)]
        if not len(found):
            return []
        return (
            builder.encode("Related:")
            + builder.item_tokens[found[::-1]].reshape(-1).tolist()
            + builder.encode("\n")
        )


@dataclass
class Joined:
    """PAG: one context after the other."""

    parts: tuple[Any, ...]
    shown: int | None = field(default=None, init=False)

    def tokens(
        self, builder: PromptBuilder, request: Request, shown: np.ndarray, earlier: np.ndarray
    ) -> list[int]:
        return [token for part in self.parts for token in part.tokens(builder, request, shown, earlier)]


@dataclass
class FullHistory:
    """As many of the most recent items as fit: `shown` of them."""

    shown: int | None

    def tokens(
        self, builder: PromptBuilder, request: Request, shown: np.ndarray, earlier: np.ndarray
    ) -> list[int]:
        return []
