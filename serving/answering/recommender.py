"""`recommend(user_id, query)`: what a service calls. Raw ids in, titles and scores out."""

from __future__ import annotations

import threading
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from llm.decoding.recommender import SidRecommender
from recsys.embeddings.embed import load_item_vectors
from recsys.recommender import Ranked, Request
from recsys.recommender import Recommender as AnyRecommender
from recsys.run import Run
from serving.answering.absorb import update
from serving.answering.defaults import default_method
from serving.answering.known import Counted
from serving.answering.limits import check_options
from serving.answering.live import LiveState, Update, place_in_list
from serving.answering.methods import Methods
from serving.answering.ordering import Order, check_order, ordered
from serving.answering.requests import (
    CUT_SHORT,
    NOT_READ,
    NOTHING_FITS,
    Asked,
    answer,
    asked_of,
    caps_of,
    path_of,
    why_nothing,
)
from serving.config.truth import config_of
from serving.state.events import TAKEN
from serving.state.store import State

DEFAULT_RUN = "runs/demo"


@dataclass(frozen=True)
class Recommendation:
    item_id: str
    title: str
    # log-probability for generative methods, inner product for retrieval, a count for popularity
    score: float


@dataclass(frozen=True)
class Recommendations:
    """A ranked list, best first, and how it came about."""

    items: list[Recommendation]
    method: str
    # "personalized", the cold-start path that was taken and why, or why the list is empty
    path: str
    seconds: float = field(compare=False, default=0.0)
    why: str = ""  # why this method, where none was named
    # "history", "exclude", "allow" -> ids in it that the run does not know; they were left out
    ignored: dict[str, Counted] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)

    def notes(self) -> list[str]:
        """Why this method, where none was named, and a sentence for each list of which ids were left out."""
        chosen = [f"{self.method}: {self.why}"] if self.why else []
        return chosen + [
            f"ignored, unknown to the run: ids in {what}: {found}" for what, found in self.ignored.items()
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Recommendation:
        return self.items[index]


class Recommender:
    """A finished run, loaded once and asked many times.

    Cold start: a user whom the run has never seen, or who has no event before the moment asked about, has no
    vector. Generative methods then answer without a prefix (No Context, which is a trained mode); embedding
    retrieval answers by popularity. `Recommendations.path` says when that happened. `history=[item ids]`
    makes anyone warm at once, and `update(events)` for good: what a run has absorbed is read with it
    (`serving.answering.live`).

    Ids are those of the files, by the door's rule (7, "7", 7.0 and the decimal 7 are one). Those that the run
    does not know are left out, counted, and said in the answer.

    Threads may share one: calls of `recommend` and `update` wait for each other, for the model keeps read
    prompts between calls. To answer several at once, load one in each process.
    """

    def __init__(
        self,
        methods: Methods,
        absorbed: int | None = None,
        state: State | None = None,
        taken: tuple[str, ...] = TAKEN,
        row: int | None = None,
    ):
        """`absorbed`: read events of feedback up to that one, and rows of P_u up to `row`; default: all.

        (For a job that feedback of meanwhile must not change.) `state`: what a service keeps, beside the run's own; `taken`: types
        of its events that are history.
        """
        self.methods, self.absorbed, self.state, self.taken, self.row = methods, absorbed, state, taken, row
        methods.rows = lambda name: self.live.rows(name)
        self._built: dict[str, AnyRecommender] = {}
        self._one_at_a_time = threading.RLock()

    @classmethod
    def load(cls, run: str | Path, int8: bool = False, state: str | None = None) -> Recommender:
        """Open a run. `state`: the URL of a service's state, which is read and written instead of the run's own.

        Raises `RunError` for an unknown run; a broken artifact is refused by name when it is read.

        `int8` quantises the weights (CPUs only); what that does to the distribution is measured and printed.
        """
        opened = Run.serving(run)
        methods = Methods(opened, config_of(opened), int8)
        return cls(methods, state=None if state is None else State(state))

    @cached_property
    def live(self) -> LiveState:
        """Everybody's history as of now, and the rows of P_u that feedback has moved."""
        return LiveState(
            self.methods.run, self.methods.dataset, self.absorbed, self.state, self.taken, self.row
        )

    def method(self, name: str, strength: float = 1.0) -> AnyRecommender:
        """A method's recommender, as it is now; `strength` scales what it adds to the model."""
        built = self._method(name)
        if strength == 1.0 or not isinstance(built, SidRecommender):
            return built
        return self.methods.recommender(built.name, replace(built.reading, strength=strength))

    def _method(self, name: str) -> AnyRecommender:
        if name not in self._built:
            self._built[name] = self.methods.build(name)
        return self._built[name]

    def forget_sessions(self) -> None:
        """Let go of prompts that were read for users' states that are no more."""
        for built in self._built.values():
            if isinstance(built, SidRecommender):
                built.model.kept_session = None

    def update(
        self,
        events: Sequence[Any],
        batch_id: str | None = None,
        *,
        place: Callable[[int], str] = place_in_list,
    ) -> Update:
        """Absorb feedback, events (user id, item id, moment),
        within the budget of the config's `online` section.

        A moment is whole Unix seconds, an ISO text or a datetime. An event may have an id as its fourth part: with an id twice it
        is one event, and another event of that id is an error. Events of items that the run does not know are stored and
        counted, and are history for a catalogue that knows them. Events of more than a day after this machine's clock are left
        out and counted. Events from before the run's first event, and from more than `live.FAR_DAYS` days after its last, are
        absorbed and counted: see `Update.ignored` and `Update.odd`. `place(number)` names an event in messages.

        Histories hold the events from now on: recent items, user vectors and P_q see them at once. Where the
        run has the method `online.method`, the rows of P_u of these users are trained on them (Online-Emb),
        from what they are: at most `max_steps` steps of `batch` events. Nothing else changes: every other
        user keeps their row and their recommendations, bit by bit. Users whom the run does not know are taken
        in, with a history and a row of their own. Late events find their place; an event that a history holds
        is not taken again. A batch is absorbed once: `batch_id`, or the hash of its events, says which. It is
        written to RUN/live in one transaction, whole or not at all; a service of the run sees it at once, another process that
        has the run loaded when it absorbs something itself, or loads it again. Updates wait for each other.

        Raises `ValueError` naming the place of a blank user, a bad id or a bad time, and `StateError` where there is no room;
        then nothing is absorbed.
        """
        with self._one_at_a_time:
            return update(self, events, batch_id, place=place)

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
        time: Any = None,
        history: Sequence[Any] | None = None,
        exclude: Sequence[Any] = (),
        allow: Sequence[Any] | None = None,
        exclude_seen: bool | None = None,
        sequence: bool = False,
        caps: Mapping[str, int] | None = None,
        order: Order = "as made",
    ) -> Recommendations:
        """The n best items (temperature 0), or n distinct draws without replacement (temperature > 0).

        `query` is text in any script, cut to `prompts.query_tokens` tokens; blank is none. `time` (unix
        seconds, an ISO text or a datetime) hides everything at or after it; default: all that the run has
        read. `history` (item ids, oldest first) replaces what the run knows of the user. `exclude` are item
        ids that may not be returned, `allow` the only ones that may; `exclude_seen` defaults to the run's
        protocol. Ids that the run does not know are counted in the answer's `ignored`, and an empty list says
        why in its `path`. `strength` (0 to 1) scales what the method adds to the model: 1 is as trained, 0
        leaves its soft tokens out.

        `sequence`: a playlist, each item chosen after those before it; scores are then log-probabilities
        given those, and sum to the list's. `caps`: column of the catalogue -> at most so many items that
        share a value ({"genres": 3}). `order` of the finished list: "as made", "smooth" (from the first item
        always to the most alike that is left) or "score". Fewer than n items come back when fewer are
        allowed, or when nothing that is left fits the caps.

        Raises `ValueError` naming what is wrong: an unknown method or column, what is no id, a time that is
        no whole second, a query that is not text, `sequence` of a method that does not generate, and whatever
        is outside `serving.answering.limits`.
        """
        check_options(n, temperature, strength, seed, exclude_seen=exclude_seen, sequence=sequence)
        check_order(order)
        started = clock.perf_counter()
        with self._one_at_a_time:
            found = self._answered(
                (user_id, query, time, history, exclude, allow, exclude_seen),
                (n, temperature, seed, sequence),
                method, strength, caps, order,
            )  # fmt: skip
        return replace(found, seconds=clock.perf_counter() - started)

    def _answered(
        self,
        who: tuple[Any, ...],
        how: tuple[int, float, int, bool],
        method: str | None,
        strength: float,
        caps: Mapping[str, int] | None,
        order: Order,
    ) -> Recommendations:
        """What `recommend` returns; one call at a time."""
        if method is not None and not isinstance(method, str):
            raise ValueError(f"method is {method!r}; expected its name, such as 'e2p'")
        data = self.methods.dataset
        asked, within = asked_of(data, self.live.histories, *who), caps_of(data, caps)
        request = asked.request
        name, why = (method, "") if method else self.default_method(request, how[3])
        if request.query:
            self.methods.refuse_words(name)
        recommender = self.method(name, strength)
        ranked = ordered(answer(recommender, [request], *how, within)[0], order, lambda: self.item_vectors)
        found = [
            Recommendation(str(data.catalogue.item_ids[item]), data.catalogue.titles[item], float(score))
            for item, score in zip(ranked.items, ranked.scores, strict=True)
        ]
        path = self.path_to(name, asked, ranked, path_of(recommender, request, who[0]))
        return Recommendations(found, recommender.name, path, ignored=asked.ignored, why=why)

    def path_to(self, name: str, asked: Asked, ranked: Ranked, path: str) -> str:
        """`path_of` a method's list, and what else is to be said of it: why it is empty, what was not read, what is not proven."""
        if not len(ranked.items):
            return f"nothing to recommend: {why_nothing(asked, len(self.methods.dataset.catalogue)) or NOTHING_FITS}"
        if asked.request.query and not self.methods.reads_query(name):
            path += NOT_READ
        if not ranked.proven:
            path += CUT_SHORT
        return path

    def default_method(self, request: Request, sequence: bool = False) -> tuple[str, str]:
        """The key of the method that answers a request where none is named, and why (`serving.answering.defaults`)."""
        methods = self.methods
        return default_method(methods.default, request, methods.available(), methods.reads_words, sequence)

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """The vectors in which items are alike [N, d]:
        of their texts where the run has them, else collaborative.
        """
        vectors = load_item_vectors(self.methods.run)
        return vectors["text" if "text" in vectors else "collaborative"]


@lru_cache(maxsize=2)
def _loaded(run: str) -> Recommender:
    return Recommender.load(run)


def recommend(
    user_id: str | int | None, query: str | None = None, n: int = 10, run: str = DEFAULT_RUN, **options
):
    """`Recommender.recommend` on a run that is loaded on the first call and kept."""
    return _loaded(str(run)).recommend(user_id, query, n, **options)


def forget_loaded() -> None:
    """Let go of the runs that `recommend` has kept: the next call reads what is on the disk."""
    _loaded.cache_clear()
