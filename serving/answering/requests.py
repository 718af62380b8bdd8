"""What callers ask, checked at the door: a request of raw ids; and how any method answers it with a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.product import Product
from evaluation.softmax import SoftmaxOver
from llm.decoding.recommender import SidRecommender
from recsys.data.caps import Caps, best_within
from recsys.data.dataset import Dataset
from recsys.data.later_events import LiveHistories
from recsys.door.times import YEAR_1990, one_moment
from recsys.door.values import shortly
from recsys.embeddings.item_knn import ItemKnn
from recsys.embeddings.retrieval import EmbeddingRetrieval
from recsys.embeddings.text_search import TextSearch
from recsys.recommender import Ranked, Recommender, Request
from serving.answering import limits
from serving.answering.known import Counted, KnownItems, known_items, known_user

NOT_READ = "; the query is not read by this method"  # behind a path
CUT_SHORT = "; the search was cut short, so another item may belong into the list"
NOTHING_FITS = "nothing that is left fits the caps"


def checked_query(query: str | None) -> str | None:
    """A query as a prompt takes it: None where it has no words.

    Any script and control characters are fine.

    Raises `ValueError` for what is not a string, for one that is longer than `limits.MOST_QUERY`, and for one
    with half of a surrogate pair, which no UTF-8 can spell.
    """
    if query is None:
        return None
    if not isinstance(query, str):
        raise ValueError(f"query is {shortly(query)}; expected text, or nothing")
    if (wrong := limits.wrong_query(len(query))) is not None:
        raise ValueError(f"query has {len(query):,} characters; {wrong}")
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


@dataclass(frozen=True, eq=False)
class Asked:
    """A request, and what of the caller's ids is not in it."""

    request: Request
    ignored: dict[str, Counted]  # history, exclude or allow -> its ids that the run does not know
    allowed: KnownItems | None  # None: the whole catalogue
    seen: np.ndarray  # items that may not come again because the user has had them


def asked_of(
    dataset: Dataset,
    histories: LiveHistories,
    user_id: Any,
    query: str | None = None,
    time: Any = None,
    history: Sequence[Any] | None = None,
    exclude: Sequence[Any] | KnownItems = (),
    allow: Sequence[Any] | KnownItems | None = None,
    exclude_seen: bool | None = None,
    request_id: str = "recommend",
) -> Asked:
    """A request of raw ids; see `serving.answering.recommender.Recommender.recommend`.

    `exclude` and `allow` may be what `known_items` has made of them: lists that many requests share are
    looked at once. Draws depend on `request_id`: requests of one user and moment that should differ need ids
    that differ.

    Raises `ValueError` naming what is wrong.
    """
    who = known_user(histories, user_id)
    user = None if who is None else who[1]
    moment = histories.moment(user) if time is None else one_moment(time, is_clock=dataset.end > YEAR_1990)
    catalogue = dataset.catalogue
    found = {"exclude": known_items(catalogue, exclude, "exclude")}
    if history is not None:
        found["history"] = known_items(catalogue, history, "history")
        items = found["history"].numbers
        times = np.full(len(items), moment - 1, dtype=np.int64)
    elif user is not None:
        items, times = histories.before(user, moment)
    else:
        items, times = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if allow is not None:
        found["allow"] = known_items(catalogue, allow, "allow")
    hide = dataset.exclude_seen if exclude_seen is None else exclude_seen
    seen = dataset.not_again(user, moment, items, hide)
    request = Request(
        request_id=request_id,
        user=user,
        time=moment,
        history=items,
        history_times=times,
        query=checked_query(query),
        exclude=np.unique(np.concatenate([found["exclude"].numbers, seen])),
        allow=None if allow is None else found["allow"].unique,
    )
    ignored = {name: list_.ignored for name, list_ in found.items() if list_.ignored is not None}
    return Asked(request, ignored, found.get("allow"), seen)


def request_of(
    dataset: Dataset, histories: LiveHistories, user_id: Any, *args: Any, **options: Any
) -> Request:
    """The request of `asked_of` alone."""
    return asked_of(dataset, histories, user_id, *args, **options).request


def why_nothing(asked: Asked, n_items: int) -> str | None:
    """Why a request can be answered with nothing at all; None where there are items that it may be answered with."""
    request, allowed = asked.request, asked.allowed
    if allowed is None:
        if len(request.exclude) < n_items:
            return None
        return f"no item of the catalogue is left: {_excluded(request.exclude, asked.seen)}"
    if not allowed.given:
        return "allow is a list without an id"
    unknown = f"unknown to the run: {allowed.ignored}" if allowed.ignored else ""
    if request.allow is None or not len(request.allow):
        return f"no allowed item is left: {unknown}"
    if request.available(request.allow).any():
        return None
    why = _excluded(request.allow, asked.seen)
    return f"no allowed item is left: {why}{'; ' if unknown else ''}{unknown}"


def _excluded(items: np.ndarray, seen: np.ndarray) -> str:
    """How `items`, none of which may be returned, divide into had before and excluded."""
    had = int(np.isin(items, seen).sum())
    parts = [f"excluded: {len(items) - had:,}"] if had < len(items) else []
    if had:
        parts.append(f"had before: {had:,} (exclude_seen keeps what was had from coming again)")
    return "; ".join(parts)


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


def path_of(recommender: Recommender, request: Request, user_id: Any) -> str:
    """How the method reads the request: "personalized", or the cold-start path and why it is taken."""
    return paths_of(recommender, [request], [user_id])[0]


def paths_of(recommender: Recommender, requests: Sequence[Request], user_ids: Sequence[Any]) -> list[str]:
    """`path_of` each of some requests, whose users are looked at in one pass."""
    if isinstance(recommender, EmbeddingRetrieval):
        known, fallback = recommender.users.vectors(requests)[1], "popularity"
    elif isinstance(recommender, ItemKnn):
        known, fallback = np.array([len(items) > 0 for items in recommender.read(requests)]), "popularity"
    elif isinstance(recommender, SidRecommender) and recommender.reading.soft_tokens:
        prompts = recommender.reading.prompts(requests)
        _, condition = recommender.reading.conditioned(prompts, requests)
        found = [bool(count) for count in condition.soft_tokens(len(requests))]
        strangers = f"what {recommender.name} puts in front of somebody unknown"
        return [
            _told(one and not nobody, request, user_id, strangers if one and nobody else "No Context")
            for one, request, user_id in zip(found, requests, user_ids, strict=True)
            for nobody in [request.user is None and not len(request.history)]
        ]
    elif isinstance(recommender, SidRecommender):
        if recommender.reading.personalizer is not None and recommender.reading.strength:
            said = "personalized by what the method keeps of the user, if anything, and the items that the prompt shows"
            return [said] * len(requests)
        said = "personalized by the items that the prompt shows, not by a vector"
        return [
            said if len(request.history) else _cold(request, user_id, "a prompt that shows no item")
            for request, user_id in zip(requests, user_ids, strict=True)
        ]
    elif isinstance(recommender, SoftmaxOver) and isinstance(recommender.scorer, Product):
        product = recommender.scorer
        known, alone = ~np.asarray(product.knows_nothing(requests)), product.otherwise
        fallback = f"{(product.scorers[alone] if isinstance(alone, int) else alone).name} alone"
    elif isinstance(recommender, TextSearch):
        return [
            "the same for everybody who asks in these words" if request.query else "the same for everybody"
            for request in requests
        ]
    else:
        return ["the same for everybody"] * len(requests)
    return [
        _told(bool(found), request, user_id, fallback)
        for found, request, user_id in zip(known, requests, user_ids, strict=True)
    ]


def _told(known: bool, request: Request, user_id: Any, fallback: str) -> str:
    return "personalized" if known else _cold(request, user_id, fallback)


def _cold(request: Request, user_id: Any, fallback: str) -> str:
    reason = (
        f"user {shortly(user_id)} is unknown to the run"
        if request.user is None
        else "no usable event before the moment"
    )
    return f"cold start ({reason}): {fallback}"
