"""`recommend(user_id, query)`: what a service calls. Raw ids in, titles and scores out."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from llm.methods.tap_per import TapPer
from llm.recommender import SidRecommender
from recsys.recommender import Recommender as AnyRecommender
from recsys.recommender import Request
from recsys.retrieval import EmbeddingRetrieval
from recsys.run import Run
from serving.absorbing import update
from serving.config import load_config
from serving.live import Event, LiveState, Update
from serving.methods import Methods

DEFAULT_RUN = "runs/demo"
PREFERRED = ("e2p", "no_context")  # the default method: the first of these that the run has


@dataclass(frozen=True)
class Recommendation:
    item_id: str
    title: str
    score: (
        float  # log-probability for generative methods, inner product for retrieval, a count for popularity
    )


@dataclass(frozen=True)
class Recommendations:
    """A ranked list, best first, and how it came about."""

    items: list[Recommendation]
    method: str
    path: str  # "personalized", or the cold-start path that was taken and why
    seconds: float = field(compare=False, default=0.0)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Recommendation:
        return self.items[index]


class Recommender:
    """A finished run, loaded once and asked many times.

    Cold start: a user whom the run has never seen, or who has no event before the moment asked about, has no vector.
    Generative methods then answer without a prefix (No Context, which is a trained mode); embedding retrieval answers
    by popularity. `Recommendations.path` says when that happened. `history=[item ids]` makes anyone warm at once, and
    `update(events)` for good: what a run has absorbed is read with it (`serving.live`).
    """

    def __init__(self, methods: Methods):
        self.methods = methods
        self._built: dict[str, AnyRecommender] = {}

    @classmethod
    def load(cls, run: str | Path, int8: bool = False) -> Recommender:
        """Open a run. Raises `RunError` for an unknown run; a broken artifact is refused by name when it is read.

        `int8` quantises the weights (CPUs only); what that does to the distribution is measured and printed.
        """
        opened = Run.open(run)
        return cls(Methods(opened, load_config(None, base=opened.read_config()), int8))

    @cached_property
    def live(self) -> LiveState:
        """Everybody's history as of now, and the rows of P_u that feedback has moved."""
        return LiveState(self.methods.run, self.methods.dataset)

    def method(self, name: str) -> AnyRecommender:
        """A method's recommender, as it is now."""
        if name not in self._built:
            built = self.methods.build(name)
            personalizer = built.reading.personalizer if isinstance(built, SidRecommender) else None
            if isinstance(personalizer, TapPer):
                personalizer.later = self.live.rows.setdefault(name, {})
            self._built[name] = built
        return self._built[name]

    def update(self, events: Sequence[Event], batch_id: str | None = None) -> Update:
        """Absorb feedback, events (user id, item id, unix seconds), within the budget of the config's `online` section.

        Histories hold the events from now on: recent items, user vectors and P_q see them at once. Where the run has the method
        `online.method`, the rows of P_u of these users are trained on them (Online-Emb), from what they are: at most `max_steps`
        steps of `batch` events. Nothing else changes: every other user keeps their row and their recommendations, bit by bit.
        Users whom the run does not know are taken in, with a history and a row of their own. Late events find their place; an
        event that a history holds is not taken again. A batch is absorbed once: `batch_id`, or the hash of its events, says which.
        It is written to RUN/live, whole or not at all. Other processes that have the run loaded see it once they load it again.

        Raises `ValueError` naming the place of an unknown item or a bad time (then nothing is absorbed), and `RunError` while another
        process writes the run.
        """
        return update(self, events, batch_id)

    def recommend(
        self,
        user_id: str | int | None,
        query: str | None = None,
        n: int = 10,
        *,
        method: str | None = None,
        strength: float = 1.0,
        temperature: float = 0.0,
        seed: int = 0,
        time: int | None = None,
        history: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        exclude_seen: bool | None = None,
    ) -> Recommendations:
        """The n best items (temperature 0), or n distinct draws without replacement (temperature > 0).

        `time` (unix seconds) hides everything at or after it; default: all that the run has read. `history` (item ids,
        oldest first) replaces what the run knows of the user. `exclude` are item ids that may not be returned, `allow` the only ones that may;
        `exclude_seen` defaults to the run's protocol. `strength` (0 to 1) scales what the method adds to the model: 1 is as trained,
        0 leaves its soft tokens out. Fewer than n items come back when fewer are allowed.
        Raises `ValueError` for an unknown method or item id, n < 1, or a negative temperature.
        """
        if n < 1:
            raise ValueError(f"n is {n}; ask for at least one item")
        if not 0 <= temperature < float("inf"):
            raise ValueError(
                f"temperature is {temperature}; expected 0 (best first) or a positive number (draws)"
            )
        if not 0 <= strength <= 1:
            raise ValueError(
                f"strength is {strength}; expected 0 (nothing personal in front) to 1 (as trained)"
            )
        started = clock.perf_counter()
        name = method or next(name for name in PREFERRED if name in self.methods.available())
        recommender = self._recommender(name, strength)
        request, path = self._request(
            user_id, query, time, history, exclude, allow, exclude_seen, recommender
        )
        ranked = recommender.recommend([request], n, temperature, seed)[0]
        catalogue = self.methods.dataset.catalogue
        found = [
            Recommendation(str(catalogue.item_ids[item]), catalogue.titles[item], float(score))
            for item, score in zip(ranked.items, ranked.scores, strict=True)
        ]
        return Recommendations(found, recommender.name, path, clock.perf_counter() - started)

    def _recommender(self, name: str, strength: float) -> AnyRecommender:
        built = self.method(name)
        if strength == 1.0 or not isinstance(built, SidRecommender):
            return built
        return self.methods.recommender(built.name, replace(built.reading, strength=strength))

    def _request(
        self, user_id, query, time, history, exclude, allow, exclude_seen, recommender
    ) -> tuple[Request, str]:
        request = self.request(user_id, query, time, history, exclude, allow, exclude_seen)
        return request, _path(recommender, request, user_id)

    def request(
        self,
        user_id: str | int | None,
        query: str | None = None,
        time: int | None = None,
        history: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        exclude_seen: bool | None = None,
        request_id: str = "recommend",
    ) -> Request:
        """What methods are asked, with integers for ids and the history as of `time`; arguments as of `recommend`.

        Draws depend on `request_id`: requests of one user and moment that should differ need ids that differ.
        """
        data, live = self.methods.dataset, self.live.histories
        user = None if user_id is None else live.user_index(str(user_id))
        moment = live.moment(user) if time is None else int(time)
        if history is not None:
            items = np.array([data.catalogue.index_of(str(item)) for item in history], dtype=np.int64)
            times = np.full(len(items), moment - 1, dtype=np.int64)
        elif user is not None:
            items, times = live.before(user, moment)
        else:
            items, times = np.zeros(0, np.int64), np.zeros(0, np.int64)
        hidden = [data.catalogue.index_of(str(item)) for item in exclude]
        if data.exclude_seen if exclude_seen is None else exclude_seen:
            hidden = [*hidden, *items.tolist()]
        return Request(
            request_id=request_id,
            user=user,
            time=moment,
            history=items,
            history_times=times,
            query=query,
            exclude=np.unique(np.array(hidden, dtype=np.int64)),
            allow=None
            if allow is None
            else np.unique(np.array([data.catalogue.index_of(str(item)) for item in allow], dtype=np.int64)),
        )


def _path(recommender: AnyRecommender, request: Request, user_id) -> str:
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


@lru_cache(maxsize=2)
def _loaded(run: str) -> Recommender:
    return Recommender.load(run)


def recommend(
    user_id: str | int | None, query: str | None = None, n: int = 10, run: str = DEFAULT_RUN, **options
):
    """`Recommender.recommend` on a run that is loaded on the first call and kept."""
    return _loaded(str(run)).recommend(user_id, query, n, **options)
