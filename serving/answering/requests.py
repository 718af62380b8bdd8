"""What callers ask, checked at the door: a request of raw ids; and how any method answers it with a list."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from llm.decoding.recommender import SidRecommender
from recsys.data.caps import Caps, best_within
from recsys.data.dataset import Dataset
from recsys.data.later_events import LiveHistories
from recsys.door.times import MILLISECONDS
from recsys.embeddings.retrieval import EmbeddingRetrieval
from recsys.recommender import Ranked, Recommender, Request


def check_options(n: int, temperature: float, strength: float, seed: int = 0) -> None:
    """Raises `ValueError` naming the option that means nothing, and what was expected."""
    if not _is_whole(n):
        raise ValueError(f"n is {n!r}; expected a whole number of items")
    if n < 1:
        raise ValueError(f"n is {n}; ask for at least one item")
    if not _is_number(temperature) or not 0 <= temperature < math.inf:  # NaN is in no range
        raise ValueError(
            f"temperature is {temperature!r}; expected 0 (best first) or a positive number (draws)"
        )
    if not _is_number(strength) or not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {strength!r}; expected 0 (nothing personal in front) to 1 (as trained)"
        )
    if not _is_whole(seed):
        raise ValueError(f"seed is {seed!r}; expected a whole number")


def checked_query(query: str | None) -> str | None:
    """A query as a prompt takes it: None where it has no words.

    Any script, control characters and lengths are fine.

    Raises `ValueError` for what is not a string, and for one with half of a surrogate pair, which no UTF-8
    can spell.
    """
    if query is None:
        return None
    if not isinstance(query, str):
        raise ValueError(f"query is {query!r}; expected text, or nothing")
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"query: character {error.start + 1} is half of a surrogate pair "
            f"(U+{ord(query[error.start]):04X}), which is not "
            "text; decode what you received as UTF-8 (or JSON) before it comes here"
        ) from None
    return query if query.strip() else None


def caps_of(dataset: Dataset, limits: Mapping[str, int] | None) -> Caps | None:
    """`limits`: column of the catalogue -> at most so many items a value.

    Raises `ValueError` for what is not there.
    """
    if limits is None:
        return None
    if not isinstance(limits, Mapping):
        raise ValueError(
            f"caps is {limits!r}; expected columns and the most items a value, such as {{'genres': 3}}"
        )
    return Caps(dataset.catalogue, limits) if limits else None


def request_of(
    dataset: Dataset,
    histories: LiveHistories,
    user_id: str | int | None,
    query: str | None = None,
    time: int | None = None,
    history: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    allow: Sequence[str] | None = None,
    exclude_seen: bool | None = None,
    request_id: str = "recommend",
) -> Request:
    """A request of raw ids; see `serving.answering.recommender.Recommender.recommend`.

    Raises `ValueError` naming what is wrong.

    Draws depend on `request_id`: requests of one user and moment that should differ need ids that differ.
    """
    user = None if user_id is None else histories.user_index(str(user_id))
    moment = histories.moment(user) if time is None else _whole_second(time)
    if history is not None:
        items = _items(dataset, history, "history")
        times = np.full(len(items), moment - 1, dtype=np.int64)
    elif user is not None:
        items, times = histories.before(user, moment)
    else:
        items, times = np.zeros(0, np.int64), np.zeros(0, np.int64)
    again = dataset.exclude_seen if exclude_seen is None else exclude_seen
    hidden = np.concatenate(
        [_items(dataset, exclude, "exclude"), dataset.not_again(user, moment, items, again)]
    )
    return Request(
        request_id=request_id,
        user=user,
        time=moment,
        history=items,
        history_times=times,
        query=checked_query(query),
        exclude=np.unique(hidden),
        allow=None if allow is None else np.unique(_items(dataset, allow, "allow")),
    )


def answer(
    recommender: Recommender,
    requests: Sequence[Request],
    n: int,
    temperature: float = 0.0,
    seed: int = 0,
    sequence: bool = False,
    caps: Caps | None = None,
) -> list[Ranked]:
    """A list a request by any method.

    Raises `ValueError` where a list in sequence is asked of one that only ranks items.
    """
    if isinstance(recommender, SidRecommender):
        return recommender.playlist(requests, n, temperature, seed, sequence, caps)
    if sequence:
        raise ValueError(
            f"{recommender.name} ranks items one by one and makes no list in sequence; choose a method that "
            "generates "
            "(such as e2p or no_context), or leave sequence out"
        )
    if caps is None:
        return recommender.recommend(requests, n, temperature, seed)

    def ranking(request: Request):
        return lambda k: recommender.recommend([request], k, temperature, seed)[0]

    return [best_within(ranking(request), caps, n) for request in requests]


def path_of(recommender: Recommender, request: Request, user_id: str | int | None) -> str:
    """How the method reads the request: "personalized", or the cold-start path and why it is taken."""
    if isinstance(recommender, EmbeddingRetrieval):
        known, fallback = bool(recommender.users.vectors([request])[1][0]), "popularity"
    elif isinstance(recommender, SidRecommender) and recommender.reading.soft_tokens:
        prompts = recommender.reading.prompts([request])
        _, condition = recommender.reading.conditioned(prompts, [request])
        known, fallback = bool(condition.soft_tokens(1)[0]), "No Context"
    else:
        return "not personalized by a vector"
    if known:
        return "personalized"
    reason = (
        f"user {user_id!r} is unknown to the run"
        if request.user is None
        else "no usable event before the moment"
    )
    return f"cold start ({reason}): {fallback}"


def _items(dataset: Dataset, ids: Iterable[str], what: str) -> np.ndarray:
    if isinstance(ids, str):
        raise ValueError(f"{what} is the text {ids!r}; expected a list of item ids, such as [{ids!r}]")
    return np.array([dataset.catalogue.index_of(str(item)) for item in ids], dtype=np.int64)


def _whole_second(time: int) -> int:
    if not _is_whole(time) or not 0 <= time < MILLISECONDS:
        raise ValueError(f"time is {time!r}; expected whole Unix seconds (not milliseconds)")
    return int(time)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
