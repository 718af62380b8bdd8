"""What each method costs: numbers stored, seconds to admit a new user, latency beside No Context's.

Timings are of this machine, alone; ratios are of calls in turn. Admission is everything between a
user's events and the first recommendation that a method can make for them: retrieving and encoding a
profile, training rows of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from evaluation.softmax import SoftmaxOver
from llm.decoding.recommender import SidRecommender
from llm.methods.base import MethodConfig
from llm.prompts.reading import Reading
from recsys.data.dataset import Dataset
from recsys.data.splits import PERSONALIZE
from recsys.progress import Progress
from recsys.recommender import Recommender, Request
from recsys.seeds import rng
from serving.answering.methods import Methods
from serving.answering.requests import answer
from serving.answering.untrained import BASELINES
from serving.config.combine import ALONE, PRODUCT

ADMITTED, ASKED = 5, 6  # users whose admission is timed; requests whose latency is
LISTED, TIMED = 10, 5  # items of a timed single request, timed requests
LENGTHS = (5, 20, 50, 100, 200, 500)  # events of a new user, in the plot of time against history


def measure_costs(methods: Methods, requests: Sequence[Request], quiet: bool = False) -> dict[str, Any]:
    """`rows`: row name -> per_user_parameters, shared_parameters, seconds_to_admit, latency_ratio (medians), and latency_ms, of a single
    request for ten items (None: not measured; a baseline keeps nothing of a user beside the history, a product what its generator keeps).

    `admission`: `lengths`, and row name -> seconds to admit a user with that many
    events (None where nobody has them).
    """
    some = [requests[at] for at in rng(0, "latency").permutation(len(requests))[:ASKED]]
    base = methods.recommender("No Context", methods.reading("no_context"))
    rows = {"No Context": _row(0, 0, 0.0, 1.0)}
    curves: dict[str, list[float | None]] = {}
    admitted, by_length = _users(methods, ADMITTED), [_users(methods, 1, least) for least in LENGTHS]
    for method in Progress(methods.config.personalize.methods, desc="costs", disable=quiet, unit="method"):
        reading = methods.reading(method.key)
        ratio = _latency_ratio(methods.recommender(method.name, reading), base, some)
        seconds = [admission_seconds(methods, method, reading, user) for user in admitted]
        rows[method.name] = _row(
            *stored(methods, method, reading), median(seconds) if seconds else None, ratio
        )
        curves[method.name] = [
            admission_seconds(methods, method, reading, users[0], least) if users else None
            for least, users in zip(LENGTHS, by_length, strict=True)
        ]
    for key in _answering(methods):
        name, generator = (
            methods.name(key),
            methods.name(key.removesuffix(PRODUCT)) if _has_generator(methods, key) else None,
        )
        kept = 0 if generator is None else rows.get(generator, {}).get("per_user_parameters")
        row = rows.setdefault(name, _row(kept, None, None, None))
        row["latency_ms"] = 1000 * single_seconds(methods.build(key), list(requests[: TIMED + 1]))
    return {"rows": rows, "admission": {"lengths": LENGTHS, "seconds": curves}}


def _answering(methods: Methods) -> list[str]:
    """Keys of the rows of the table that answer by themselves: all but softmaxes and controls."""
    words = [] if methods.products is None else methods.products.for_queries()
    rows = [key for key in methods.available() if key not in BASELINES or BASELINES[key].trained is not None]
    return [key for key in rows if key not in words]


def _has_generator(methods: Methods, key: str) -> bool:
    return key in methods.product_names and key != ALONE


def single_seconds(one: Recommender, requests: Sequence[Request]) -> float:
    """Median of single requests for ten items, the first of which is not counted: it loads what is loaded once."""
    taken = []
    for request in requests[: TIMED + 1]:
        started = time.perf_counter()
        answer(one, [replace(request)], LISTED)  # a copy: nothing of it is kept from before
        taken.append(time.perf_counter() - started)
    if isinstance(one, SoftmaxOver):
        one.forget()
    return median(taken[1:] or taken)


def _row(
    per_user: int | None, shared: int | None, seconds: float | None, ratio: float | None
) -> dict[str, Any]:
    return {
        "per_user_parameters": per_user,
        "shared_parameters": shared,
        "seconds_to_admit": seconds,
        "latency_ratio": ratio,
        "latency_ms": None,
    }


def stored(methods: Methods, method: MethodConfig, reading: Reading) -> tuple[int, int]:
    """Numbers that a method keeps for each user, and for all together."""
    if reading.personalizer is not None:
        return reading.personalizer.per_user_parameters, reading.personalizer.shared_parameters
    report = methods.run.read_json("personalize", "personalize.json")["methods"]
    return 0, report.get(f"{method.key}-{methods.config.personalize.seeds[0]}", {}).get(
        "trainable_parameters", 0
    )


def admission_seconds(
    methods: Methods, method: MethodConfig, reading: Reading, user: int, at_most: int | None = None
) -> float:
    """Seconds to admit a user whom the method has not met, with their training
    events (the last `at_most` of them).
    """
    events = training_events(methods.dataset, user)
    events = events if at_most is None else events[-at_most:]
    return _timed(lambda: method.admit(methods.world, reading, events))


def training_events(data: Dataset, user: int) -> np.ndarray:
    """A user's events before their held-out ones, oldest first."""
    events = np.arange(data.offsets[user], data.offsets[user + 1])
    return events[data.roles[events] <= PERSONALIZE]


def _users(methods: Methods, count: int, least: int = 5) -> list[int]:
    data = methods.dataset
    trained = np.bincount(data.users[data.roles <= PERSONALIZE], minlength=data.n_users)
    return rng(0, "admitted").permutation(np.flatnonzero(trained >= least))[:count].tolist()


def _latency_ratio(method: SidRecommender, base: SidRecommender, requests: Sequence[Request]) -> float:
    ratios = []
    for request in requests:
        theirs, ours = (_timed(partial(_ask, recommender, request)) for recommender in (base, method))
        ratios.append(ours / theirs)
    return median(ratios)


def _ask(recommender: SidRecommender, request: Request) -> None:
    recommender.model.kept_session = None
    recommender.recommend([request], 30, 1.0)


def _timed(work: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
