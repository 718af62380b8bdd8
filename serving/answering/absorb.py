"""Absorbing feedback into a run: what `Recommender.update` does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm.decoding.recommender import SidRecommender
from llm.methods.tap_per import TapPer, TapPerConfig
from llm.methods.user_states import Absorbed, OnlineConfig, absorb
from recsys.door.values import shortly
from recsys.recommender import Recommender
from serving.answering.live import (
    Feedback,
    LiveState,
    Update,
    checked_batch_id,
    checked_events,
    counted_times,
    digest_of,
    odd_times,
    place_in_list,
    to_come,
)
from serving.answering.methods import Methods
from serving.state.place import one_at_a_time


class Absorbs(Protocol):
    """What feedback is absorbed into: a loaded run (`serving.answering.recommender.Recommender`)."""

    @property
    def live(self) -> LiveState: ...

    @property
    def methods(self) -> Methods: ...

    def method(self, name: str) -> Recommender: ...

    def forget_sessions(self) -> None: ...


def update(
    service: Absorbs,
    given: Sequence[Any],
    batch_id: str | None,
    full: bool = False,
    place: Callable[[int], str] = place_in_list,
) -> Update:
    """See `Recommender.update`.

    With `full` P_q and the bridge are trained too, in memory (the study `online_full` writes them), and on
    all the events, also those that the run has absorbed before.
    """
    started = time.monotonic()
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ValueError(f"events is {shortly(given)}; expected a list of (user_id, item_id, moment)")
    prepared = service.methods.run.read_json("prepare", "prepare.json")
    is_clock = prepared["time"] == "unix_seconds"
    events = checked_events(given, place, is_clock)
    digest = digest_of(events)
    batch_id = digest if batch_id is None else checked_batch_id(batch_id)
    live, config = service.live, service.methods.config.online
    with one_at_a_time(service.methods.run.home):
        if live.find(batch_id, digest):
            return Update(batch_id, False)
        live.replay()  # another process may have absorbed feedback since
        ahead = to_come(events, is_clock)
        kept = sorted(set(range(len(events))) - set(ahead))
        taken, place_of = [events[number] for number in kept], lambda number: place(kept[number])
        feedback = live.check(taken, place_of)
        done = train(service, feedback, config, full)
        answer = Update(
            batch_id, True, len(feedback), feedback.known, feedback.people, feedback.new_people,
            done.steps if done else 0, config.method if done else None,
            ignored={
                what: counted
                for what, counted in (("item_id", feedback.unknown_items), ("time", counted_times(events, ahead, place)))
                if counted is not None
            },
            odd=odd_times(prepared, taken, place_of), seconds=time.monotonic() - started,
        )  # fmt: skip
        live.commit(batch_id, digest, taken, {config.method: rows_of(done, feedback)} if done else {})
    service.forget_sessions()
    return answer


def rows_of(done: Absorbed, feedback: Feedback) -> dict[str, np.ndarray]:
    """User id -> the row that was trained."""
    whose = (feedback.after.user_id(user) for user in done.users.tolist())
    return {
        user_id: row.cpu().numpy()
        for user_id, row in zip(whose, done.rows, strict=True)
        if user_id is not None
    }


def train(service: Absorbs, feedback: Feedback, config: OnlineConfig, full: bool) -> Absorbed | None:
    """New rows of P_u of the feedback's users; None if there is nothing to train,
    or no method with such rows.
    """
    methods = service.methods
    found = [m for m in methods.config.personalize.methods if m.key == config.method]
    method = found[0] if found else None
    if not isinstance(method, TapPerConfig) or not method.user_state:
        if full:
            raise ValueError(
                f"online.method is {config.method!r}, and the run has no TAP-PER with a P_u of that name"
            )
        return None
    if methods.int8:
        raise ValueError(
            "8-bit weights cannot be trained through; load the run without int8 to absorb feedback"
        )
    recommender = service.method(config.method)
    assert isinstance(recommender, SidRecommender)
    personalizer = recommender.reading.personalizer
    assert isinstance(personalizer, TapPer)
    fresh = np.stack([feedback.users, feedback.items, feedback.times], 1)
    events = feedback.given if full else fresh
    if (trained := methods.dataset.catalogue.n_trained) is not None:
        events = events[events[:, 1] < trained]  # the generator can be asked for no other
    if not len(events):
        return None
    requests = [feedback.after.request(f"f{at}", *event) for at, event in enumerate(events.tolist())]
    before = personalizer.later
    personalizer.later = before.copy()  # what the commit has not written is not served
    try:
        with tempfile.TemporaryDirectory() as checkpoint:
            rate = config.learning_rate or _rate(service, config.method)
            return absorb(
                "feedback",
                recommender.reading,
                requests,
                events[:, 1],
                config,
                rate,
                Path(checkpoint),
                full,
            )
    finally:
        personalizer.later = before


def _rate(service: Absorbs, key: str) -> float:
    report = service.methods.run.read_json("personalize", "personalize.json")
    return report["methods"][f"{key}-{service.methods.config.personalize.seeds[0]}"]["learning_rate"]
