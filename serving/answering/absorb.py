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
from recsys.run import Run
from serving.answering.live import (
    Feedback,
    LiveState,
    Update,
    checked,
    checked_batch_id,
    digest_of,
    odd_times,
    place_in_list,
)
from serving.answering.methods import Methods


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
    is_clock = service.methods.run.read_json("prepare", "prepare.json")["time"] == "unix_seconds"
    events = [checked(place(number), event, is_clock) for number, event in enumerate(given)]
    digest = digest_of(events)
    batch_id = digest if batch_id is None else checked_batch_id(batch_id)
    live, run, config = service.live, service.methods.run, service.methods.config.online
    with run.lock():
        live.replay()  # another process may have absorbed feedback since
        if live.find(batch_id, digest):
            return Update(batch_id, False)
        feedback = live.check(events, place)
        before = live.histories
        done = train(service, feedback, config, full)
        people = set(feedback.user_ids)
        new_users = sum(before.user_index(user_id) is None for user_id in people)
        answer = Update(
            batch_id, True, len(feedback), feedback.known, len(people), new_users,
            done.steps if done else 0, config.method if done else None,
            ignored={} if feedback.unknown_items is None else {"item_id": feedback.unknown_items},
            odd=odd_times(run.read_json("prepare", "prepare.json"), events, place),
            seconds=time.monotonic() - started,
        )  # fmt: skip
        facts = {"steps": answer.steps, "seconds": round(answer.seconds, 3)}
        users = done.users if done else feedback.users[:0]
        live.commit(batch_id, digest, feedback, users, {config.method: done.rows} if done else {}, facts)
        Run(run.home).update_manifest()
    service.forget_sessions()
    return answer


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
    personalizer.later = dict(before)  # what the commit has not written is not served
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
