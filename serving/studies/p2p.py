"""P2P taken apart, as in section 6 and appendix A of its paper.

  profiles   one trained hypernetwork told other profiles at test time: another user's, shuffled words, parts,
             the full history
  k          the same network with 0 to 32 retrieved records
  encoders   trained again with other frozen encoders
  users      trained again on equally many instances of few or of many users, and on few or many instances
             of all users
  time       seconds to admit a user (profile, encoding, generation) against training one adapter a user;
             the break-even

Figures are the expected hit-rate@30 at temperature 1 on test instances,
with intervals over users and paired tests.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from evaluation.metrics import expected_hit
from evaluation.statistics import mean_interval, paired_test, user_means
from llm.decoding.scoring import log_probs_of
from llm.methods.p2p.method import P2P, P2PConfig
from llm.methods.per_user.oppu import OppuConfig
from llm.methods.stage2 import Instances, World, lm_loss
from llm.prompts.reading import Reading
from recsys.data.dataset import Dataset
from recsys.data.splits import TEST
from recsys.recommender import Request
from recsys.requests import some_of
from recsys.seeds import rng, sample
from serving.answering.methods import Methods
from serving.stages.costs import admission_seconds, training_events
from serving.studies.p2p_pictures import SHARES, draw_pictures

TOLD = ("summary_and_records", "summary_only", "retrieved_only", "full_history", "random", "shuffled")
RECORDS = (0, 1, 2, 4, 8, 16, 32)
DRAWS = 30
ADMITTED = 9  # users whose admission is timed
TIMED_STEPS = 3


class Test:
    """The test instances that every figure here is of, and No Context's and the
    whole method's figures a user.
    """

    def __init__(self, data: Dataset, at_most: int):
        events = sample(data.instances(TEST), at_most, 0, "analysed")
        self.requests = data.block(events, data.exclude_seen)
        self.targets, self.users = data.items[events], data.users[events]

    def of(self, reading: Reading) -> np.ndarray:
        """Expected hit-rate@30 of each user [U]."""
        log_p = log_probs_of(reading, self.requests, self.targets)[:, 0]
        return user_means(expected_hit(log_p, DRAWS), self.users)[1]


def row(name: str, values: np.ndarray, against: np.ndarray | None = None) -> dict[str, Any]:
    """Mean over users, its interval and, `against` another row's values, the paired difference."""
    found: dict[str, Any] = {"name": name, "hit_rate": float(values.mean()), "ci95": mean_interval(values)}
    if against is not None:
        test = paired_test(values, against)
        found |= {"difference": test.difference, "difference_ci95": test.interval, "p": test.p_value}
    return found


def analyse_p2p(
    methods: Methods,
    key: str,
    instances: int = 1000,
    encoders: Sequence[str] = (),
    diversity: bool = False,
    oppu_seconds: float | None = None,
) -> dict[str, Any]:
    """Write `RUN/analyses/KEY/` (p2p.json and pictures), and return the figures.
    A killed call goes on with the trainings.
    """
    method = methods.config.personalize.method(key) if key in methods.available() else None
    if not isinstance(method, P2PConfig):
        raise ValueError(f"{key!r} is not a P2P method of this run; it has {', '.join(methods.available())}")
    world, reading = methods.world, methods.reading(key)
    assert isinstance(reading.personalizer, P2P)
    test = Test(methods.dataset, instances)
    plain, whole = test.of(methods.reading("no_context")), test.of(reading)
    found: dict[str, Any] = {"method": key, "instances": len(test.requests), "test_users": len(whole)}
    found["profiles"] = [row("no context", plain, whole), row("as trained", whole)]
    found["profiles"] += _told(world, method, reading, test, whole)
    found["k"] = _by_k(world, method, reading, test)
    work = _work(methods, key)
    found["encoders"] = [row(method.encoder, whole, plain)] if encoders else []
    for encoder in encoders:
        other = method.model_copy(update={"encoder": encoder})
        trained = _trained(world, other, world.train.events, work / f"encoder-{_slug(encoder)}")
        found["encoders"].append(row(encoder, test.of(trained), plain))
    found["users"] = _diversity(world, method, test, plain, work) if diversity else []
    found["time"] = _time(methods, method, reading, oppu_seconds)
    folder = methods.run.path / "analyses" / key
    (folder / "p2p.json").write_text(json.dumps(found, indent=1))
    draw_pictures(folder, found)
    shutil.rmtree(work, ignore_errors=True)
    return found


def _told(
    world: World, method: P2PConfig, reading: Reading, test: Test, whole: np.ndarray
) -> list[dict[str, Any]]:
    """The trained network with each other profile."""
    rows = []
    for kind in TOLD:
        k = None if kind in ("summary_only", "full_history") else method.told[1] or None
        summaries = None if kind in ("retrieved_only", "full_history") else method.summaries
        other = method.model_copy(update={"profile": kind, "k": k, "summaries": summaries})
        if other.told != method.told:
            rows.append(row(kind.replace("_", " "), test.of(_saying(world, reading, other)), whole))
    return rows


def _by_k(world: World, method: P2PConfig, reading: Reading, test: Test) -> list[dict[str, Any]]:
    if method.profile not in ("summary_and_records", "summary_only"):
        return []
    kinds = [method.model_copy(update={"profile": "summary_and_records", "k": k}) for k in RECORDS]
    return [row(str(kind.k), test.of(_saying(world, reading, kind))) for kind in kinds]


def _saying(world: World, reading: Reading, method: P2PConfig) -> Reading:
    """The trained hypernetwork told the profiles of `method`."""
    assert isinstance(reading.personalizer, P2P)
    told = P2P(method.profiles(world), reading.personalizer.generator).eval()
    return replace(reading, personalizer=told)


def _trained(world: World, method: P2PConfig, events: np.ndarray, work: Path) -> Reading:
    """The method trained on the instances of some events, in its own folder."""
    seed = world.settings.seeds[0]
    own = replace(world, kept=dict(world.kept))
    own.__dict__ |= {"train": Instances(world.dataset, events, world.users), "search": world.search}
    saved = work / f"{method.key}-{seed}.safetensors"
    if not saved.exists():
        work.mkdir(parents=True, exist_ok=True)
        method.train(own, seed, work, work / "checkpoint" / "fit", work / "checkpoint" / "pilots")
    personalizer = method.new(own, seed)
    personalizer.load_state_dict(load_file(saved))
    return method.reading(own, personalizer.to(own.model.device).eval().requires_grad_(False))


def _diversity(
    world: World, method: P2PConfig, test: Test, plain: np.ndarray, work: Path
) -> list[dict[str, Any]]:
    """The same number of instances from more users, and of all users more instances."""
    rows = []
    for what, events in training_parts(world.dataset, world.train.events).items():
        users = len(np.unique(world.dataset.users[events]))
        reading = _trained(world, method, events, work / _slug(what))
        rows.append(row(what, test.of(reading), plain) | {"users": users, "instances": len(events)})
    return rows


def training_parts(data: Dataset, events: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> training events. `diversity S`: as many as an eighth of the users have, spread evenly
    over a share S of the users; `quantity S`: spread evenly over all users, a share S of all. Users
    and events are in a seeded order.
    """
    generator = rng(0, "user diversity")
    users = generator.permutation(np.unique(data.users[events]))
    place = {int(user): at for at, user in enumerate(users)}
    shuffled = generator.permutation(events)
    whose = np.array([place[int(user)] for user in data.users[shuffled]])
    order = np.argsort(whose, kind="stable")  # user by user
    turn = np.arange(len(order)) - np.searchsorted(whose[order], whose[order])
    shuffled, whose = shuffled[order], whose[order]
    parts = {}
    counts = [max(1, int(share * len(users))) for share in SHARES]
    fixed = int((whose < counts[0]).sum())
    for share, count in zip(SHARES, counts, strict=True):
        mine = np.flatnonzero(whose < count)
        even = mine[np.lexsort((whose[mine], turn[mine]))]  # everybody's first, everybody's second, …
        parts[f"diversity {share:g}"] = np.sort(shuffled[even[:fixed]])
    even = np.lexsort((whose, turn))
    for share in SHARES:
        parts[f"quantity {share:g}"] = np.sort(shuffled[even[: max(1, int(share * len(even)))]])
    return parts


# -- time ----------------------------------------------------------------------------------------------------


def _time(
    methods: Methods, method: P2PConfig, reading: Reading, oppu_seconds: float | None
) -> dict[str, Any]:
    """Seconds a user and once, and from how many users on the hypernetwork is cheaper
    than training one adapter each.
    """
    world = methods.world
    users = [u for u in range(methods.dataset.n_users) if len(training_events(methods.dataset, u)) >= 5]
    chosen = rng(0, "admitted").permutation(np.array(users, np.int64))[:ADMITTED].tolist()
    once = _training_seconds(world, method)
    ours = median(admission_seconds(methods, method, reading, user) for user in chosen)
    parts = _parts(world, method, reading, chosen)
    given = "given" if oppu_seconds is not None else None
    trained = (one for one in methods.config.personalize.methods if isinstance(one, OppuConfig))
    if oppu_seconds is None and (oppu := next(trained, None)) is not None:
        own = methods.reading(oppu.key)
        oppu_seconds = median(admission_seconds(methods, oppu, own, user) for user in chosen)
        given = "timed"
    found: dict[str, Any] = {
        "p2p_seconds_a_user": ours,
        "of_which": parts,
        "p2p_training_seconds_estimated": once,
        "oppu_seconds_a_user": oppu_seconds,
        "oppu_is": given,
    }
    if oppu_seconds is not None:
        found["times_faster"] = oppu_seconds / ours
        gain = oppu_seconds - ours
        found["break_even_users"] = once / gain if gain > 0 else None
    return found


def _parts(world: World, method: P2PConfig, reading: Reading, users: Sequence[int]) -> dict[str, float]:
    """Median seconds to write the profile, to encode it and to generate the adapter, for one request."""
    assert isinstance(reading.personalizer, P2P)
    profiles, generator, data = reading.personalizer.profiles, reading.personalizer.generator, world.dataset
    spent: dict[str, list[float]] = {"profile": [], "encoding": [], "generation": []}
    for user in users:
        moment = int(data.times.max()) + 1
        request = Request("timed", user, moment, *data.before(user, moment))
        marks = [time.perf_counter()]
        text = profiles.maker.text(request) or ""
        marks.append(time.perf_counter())
        vector = torch.from_numpy(profiles.encode([text])).to(generator.centre.device)
        marks.append(time.perf_counter())
        with torch.no_grad():
            generator(vector, torch.ones(1, dtype=torch.bool, device=vector.device))
        if vector.is_cuda:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        for name, seconds in zip(spent, np.diff(marks), strict=True):
            spent[name].append(float(seconds))
    return {name: median(values) for name, values in spent.items()}


def _training_seconds(world: World, method: P2PConfig) -> float:
    """Of the whole training, pilots included: some steps and some encodings timed, times their numbers."""
    settings, train = world.settings, world.train
    personalizer = method.new(world, 0).to(world.model.device)
    reading = method.reading(world, personalizer)
    rates, steps = method.learning_rates or settings.learning_rates, method.steps or settings.steps
    total = steps + (len(rates) * min(settings.pilot_steps, steps) if len(rates) > 1 else 0)
    rows = rng(0, "timed").permutation(len(train))
    spent, encoded = [], []
    assert isinstance(personalizer, P2P)
    for number in range(TIMED_STEPS):
        some = rows[np.arange(number * settings.batch, (number + 1) * settings.batch) % len(rows)]
        requests = some_of(train.requests, some)
        personalizer.profiles.forget()
        started = time.perf_counter()
        personalizer.profiles.vectors(requests)
        encoded.append((time.perf_counter() - started) / len(requests))
        started = time.perf_counter()
        lm_loss(reading, requests, train.targets[some]).backward()
        spent.append(time.perf_counter() - started)
    return median(spent) * total + median(encoded) * (len(train) + len(world.validation))


# -- where and how it is shown -------------------------------------------------------------------------------


def _work(methods: Methods, key: str) -> Path:
    """Where trainings are kept until the analysis is whole;
    another training of the method has another place.
    """
    record = methods.run.record("personalize")
    assert record is not None
    print_ = hashlib.blake2b(record["fingerprint"].encode(), digest_size=8).hexdigest()
    work = methods.run.path / "analyses" / key / f".work-{print_}"
    work.mkdir(parents=True, exist_ok=True)
    return work


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in name)
