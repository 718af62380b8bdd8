"""Personalized text tasks: one instance type for every format, and what is shown or retrieved of a person.

An instance asks one question of one person at one moment. Its history holds records strictly before that
moment, which the constructor checks, so no loader can hand a record of the future to a prompt, to a retriever
or to a user vector.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recsys.door.tables import DataError
from recsys.seeds import rng

Kind = Literal["labels", "rating", "text"]  # accuracy and F1; MAE and RMSE; perplexity and ROUGE


@dataclass(frozen=True)
class Record:
    """What a person did or wrote once.
    `time` is Unix seconds, or the record's order where a format has no clock.
    """

    text: str
    time: int


@dataclass(frozen=True)
class Instance:
    """One question to one person.

    `labels` are the closed set of answers, where there is one; `history` is oldest first, every record
    strictly before `time` (where the instance has one); `persona` is a text about the person. Raises
    `ValueError` otherwise.
    """

    id: str
    user: str
    input: str
    target: str
    time: int | None = None
    labels: tuple[str, ...] | None = None
    history: tuple[Record, ...] = ()
    persona: str = ""

    def __post_init__(self) -> None:
        if not self.target.strip():
            raise ValueError(f"instance {self.id} has no target; leave it out")
        if self.labels is not None and self.target not in self.labels:
            raise ValueError(
                f"instance {self.id}: the target {self.target!r} is none of the labels {', '.join(self.labels)}"
            )
        times = [record.time for record in self.history]
        if any(after < before for before, after in pairwise(times)):
            raise ValueError(
                f"instance {self.id}: the history is not in order of time; sort it, oldest first"
            )
        if self.time is not None and times and times[-1] >= self.time:
            raise ValueError(
                f"instance {self.id} at {self.time} has a record of time {times[-1]} in its history; "
                "only what is strictly before may stand there"
            )


@dataclass(frozen=True)
class TextTask:
    """The instances of one task by role. `longest_answer` bounds a generated answer, in tokens."""

    name: str
    kind: Kind
    train: tuple[Instance, ...]
    validation: tuple[Instance, ...]
    test: tuple[Instance, ...]
    longest_answer: int = 48
    notes: tuple[str, ...] = ()  # what was left out and how often, in sentences for the report

    def __post_init__(self) -> None:
        for role in ("train", "test"):
            if not getattr(self, role):
                raise ValueError(f"task {self.name} has no {role} instance; bring more data or another split")
        if self.kind != "text" and any(item.labels is None for item in (*self.train, *self.test)):
            raise ValueError(f"task {self.name} is of kind {self.kind}; each of its instances needs labels")

    def sample(self, train: int | None, validation: int | None, test: int | None, seed: int) -> TextTask:
        """At most so many instances of each role (None: all), spread over as many users as there are."""
        return replace(
            self,
            train=spread_sample(self.train, train, seed, "train"),
            validation=spread_sample(self.validation, validation, seed, "validation"),
            test=spread_sample(self.test, test, seed, "test"),
        )


def spread_sample(instances: Sequence[Instance], n: int | None, seed: int, role: str) -> tuple[Instance, ...]:
    """At most `n` instances: one of each user before a second of any,
    users and instances in a seeded order.
    """
    if n is None or n >= len(instances):
        return tuple(instances)
    turns: dict[str, int] = defaultdict(int)
    ranked: list[tuple[int, int, int]] = []
    for place in rng(seed, "sample", role).permutation(len(instances)):
        user = instances[place].user
        ranked.append((turns[user], len(ranked), int(place)))
        turns[user] += 1
    return tuple(instances[place] for *_, place in sorted(ranked)[:n])


def divide_users(users: Iterable[str], share: float, seed: int, key: str) -> set[str]:
    """A seeded `share` of the distinct users; who is chosen depends on the set of users alone."""
    distinct = sorted(set(users))
    order = rng(seed, "users", key).permutation(len(distinct))
    return {distinct[place] for place in order[: round(share * len(distinct))]}


# -- what is shown of a person -------------------------------------------------------------------------------


def retrieve(instance: Instance, k: int) -> list[Record]:
    """The k records of the history that BM25 finds nearest to the input, oldest first;
    the latest where none matches.

    BM25 is bm25s's (Lucene's weights, k₁ = 1.5, b = .75) over this one history, so no other person's words
    count.
    """
    import bm25s

    history = instance.history
    if k <= 0 or not history:
        return []
    if k >= len(history):
        return list(history)
    words = bm25s.tokenize(
        [record.text for record in history], stopwords=None, return_ids=False, show_progress=False
    )
    asked = bm25s.tokenize([instance.input], stopwords=None, return_ids=False, show_progress=False)[0]
    known = {word for text in words for word in text}
    asked = [word for word in asked if word in known]
    scores = np.zeros(len(history))
    if asked:
        index = bm25s.BM25()
        index.index(words, show_progress=False)
        scores = index.get_scores(asked)
    best = sorted(range(len(history)), key=lambda place: (-scores[place], -place))[:k]
    return [history[place] for place in sorted(best)]


def context_text(instance: Instance, k: int) -> str:
    """What the prompt method shows of the person: the persona, then k retrieved records.
    Empty: nothing is known.
    """
    parts = []
    if instance.persona:
        parts.append(f"About the person who answers: {' '.join(instance.persona.split())}")
    records = retrieve(instance, k)
    if records:
        parts.append("What this person did before:\n" + "\n".join(f"- {record.text}" for record in records))
    return "\n".join(parts)


def profile_text(instance: Instance, records: int) -> str:
    """The text whose last hidden state is the user's vector:
    the persona, then the latest records, latest last.

    It does not depend on the input, so that a vector is of a person at a moment and not of a question.
    """
    latest = [record.text for record in instance.history[-records:]] if records > 0 else []
    return "\n".join([*([instance.persona] if instance.persona else []), *latest])


# -- reading -------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """A whole JSON file. Raises `DataError` naming the file, the line of damage, and the remedy."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the folder that holds it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}); download the file again") from None


def field(record: Any, name: str, where: str, allow_empty: bool = False) -> str:
    """A text field of a JSON record, as a string. `where` names the file and the record in the message."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: a {type(record).__name__}; expected an object with '{name}'")
    if name not in record:
        raise DataError(f"{where}: no field '{name}'; found: {', '.join(map(str, record)) or 'none'}")
    value = record[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: '{name}' is {str(value)[:40]!r}; expected text")
    text = str(value).strip()
    if not text and not allow_empty:
        raise DataError(f"{where}: '{name}' is empty; fill it or delete the record")
    return text


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Puts the place in the file in front of what an instance's own checks say of it."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
