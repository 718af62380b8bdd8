"""Absorbing feedback into a run: `Recommender.update`, and Online-Full, which makes a new run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm.decoding.recommender import SidRecommender
from llm.methods.base import save_personalizer
from llm.methods.tap_per import TapPer, TapPerConfig
from llm.methods.user_states import Absorbed, OnlineConfig, absorb
from recsys.artifacts.rewrite import write_text_atomically
from recsys.run import Run, sha256_of
from serving.answering.live import Event, Feedback, Update, checked, digest_of, write_durably

if TYPE_CHECKING:
    from serving.answering.recommender import Recommender


def update(service: Recommender, events: Sequence[Event], batch_id: str | None, full: bool = False) -> Update:
    """See `Recommender.update`. With `full` P_q and the bridge are trained too, in memory (`online_full` writes them), and on all the
    events, also those that the run has absorbed before.
    """
    started = time.monotonic()
    events = [checked(place, event) for place, event in enumerate(events)]
    digest = digest_of(events)
    batch_id = digest if batch_id is None else batch_id
    live, run, config = service.live, service.methods.run, service.methods.config.online
    with run.lock():
        live.replay()  # another process may have absorbed feedback since
        if live.find(batch_id, digest):
            return Update(batch_id, False)
        feedback = live.check(events)
        before = live.histories
        done = _train(service, feedback, config, full)
        people = set(feedback.user_ids)
        new_users = sum(before.user_index(user_id) is None for user_id in people)
        answer = Update(
            batch_id, True, len(feedback), feedback.known, len(people), new_users,
            done.steps if done else 0, config.method if done else None, time.monotonic() - started,
        )  # fmt: skip
        facts = {"steps": answer.steps, "seconds": round(answer.seconds, 3)}
        users = done.users if done else feedback.users[:0]
        live.commit(batch_id, digest, feedback, users, {config.method: done.rows} if done else {}, facts)
        run.update_manifest()
    for built in service._built.values():
        if isinstance(built, SidRecommender):
            built.model.kept_session = None  # prompts that were read for states that are no more
    return answer


def _train(service: Recommender, feedback: Feedback, config: OnlineConfig, full: bool) -> Absorbed | None:
    """New rows of P_u of the feedback's users; None if there is nothing to train, or no method with such rows."""
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


def _rate(service: Recommender, key: str) -> float:
    report = service.methods.run.read_json("personalize", "personalize.json")
    return report["methods"][f"{key}-{service.methods.config.personalize.seeds[0]}"]["learning_rate"]


# -- Online-Full ---------------------------------------------------------------------------------------------------


def online_full(path: Path, events: Sequence[Event], out: Path) -> Update:
    """Train P_u of the events' users, P_q and the bridge from the run's weights on the events; `out` is the new run. Events that
    `update` has absorbed before are trained on too, and stand in the histories once.

    Stages that do not change are linked (copied where the disk cannot link). The new run has the old one's configuration, its journal
    and these events; the old run stays as it is. It is built beside `out` and renamed: killed, it begins again.
    """
    from serving.answering.recommender import Recommender  # which imports this module

    if out.exists():
        raise ValueError(f"{out} exists, and is not overwritten; choose another --out or delete it")
    old = Run.open(path)
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    with old.lock():
        _link(old.path, partial)
    run = Run.open(partial)
    service = Recommender.load(partial)
    answer = update(
        service, events, f"online-full {digest_of([checked(*pair) for pair in enumerate(events)])}", full=True
    )
    if not answer.steps:
        shutil.rmtree(partial)
        raise ValueError(f"{path} was trained on these very events before (online-full), or there are none")
    _save_weights(service, run, answer)
    run.update_manifest()
    os.rename(partial, out)
    return answer


def _link(source: Path, target: Path) -> None:
    """Every finished stage and the configuration; files are linked, as nothing writes into one that is there."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    hidden = shutil.ignore_patterns(".*", "report.html", "results.json", "SHA256SUMS")
    shutil.copytree(source, target, copy_function=link, ignore=hidden)


def _save_weights(service: Recommender, run: Run, answer: Update) -> None:
    """Put the trained weights into the new run's personalize stage; its journal then goes with them."""
    assert answer.method is not None
    recommender = service.method(answer.method)
    assert isinstance(recommender, SidRecommender)
    assert recommender.reading.personalizer is not None
    module, seed = recommender.reading.personalizer, service.methods.config.personalize.seeds[0]
    path = run.path / "personalize" / f"{answer.method}-{seed}.safetensors"
    write_durably(path, lambda temporary: save_personalizer(module, temporary))
    record = run.record("personalize")
    assert record is not None
    record["artifacts"] |= {path.name: sha256_of(path)}
    record["continued"] = [
        *record.get("continued", []),
        {"method": answer.method, "events": answer.batch_id, "steps": answer.steps},
    ]
    write_text_atomically(path.with_name("stage.json"), json.dumps(record, indent=1))
    service.live.record(service.live.batches)
