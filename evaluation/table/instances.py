"""Test instances: which are measured, and which could not be measured rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.recommender import Request
from recsys.requests import Requests, some_of
from recsys.seeds import rng


@dataclass(frozen=True)
class Question:
    """What every row is asked: R requests, the item that each should find, and whose request it is."""

    requests: Sequence[Request]
    targets: np.ndarray  # [R], item integers
    users: np.ndarray  # [R]

    def __len__(self) -> int:
        return len(self.requests)

    def only(self, chosen: np.ndarray) -> Question:
        """The instances `chosen` (places among the R)."""
        requests = self.requests
        few = requests.only(chosen) if isinstance(requests, Requests) else some_of(requests, chosen)
        return Question(few, self.targets[chosen], self.users[chosen])


def sample_instances(users: np.ndarray, at_most: int, seed: int) -> np.ndarray:
    """Which of the R instances to measure, ascending [at most `at_most`]; all of them if `at_most` is 0 or ≥
    R.

    Takes one random instance of each user (users in random order) before a second of any: the n of every test
    is a number of users, and a user's mean over a random part of the instances is unbiased for the user's
    mean over all.
    """
    count = len(users)
    if at_most == 0 or at_most >= count:
        return np.arange(count)
    shuffled = rng(seed, "sample of instances").permutation(count)
    seen: dict[int, int] = {}
    turn = np.empty(count, dtype=np.int64)  # the how-manieth instance of its user, in shuffled order
    for at, user in enumerate(users[shuffled].tolist()):
        turn[at] = seen[user] = seen.get(user, -1) + 1
    return np.sort(shuffled[np.argsort(turn, kind="stable")[:at_most]])


def check_instances(question: Question) -> None:
    """Refuse instances that leak or cannot be answered; the ValueError names the request and the remedy."""
    requests, targets, users = question.requests, question.targets, question.users
    if not len(requests):
        raise ValueError(
            "there is no test instance to evaluate: no user has a held-out item; change the split"
        )
    if not len(requests) == len(targets) == len(users):
        raise ValueError(
            f"{len(requests)} requests, {len(targets)} targets and {len(users)} users: one of each"
        )
    _refuse_twice(requests)
    for request, target in zip(requests, targets.tolist(), strict=True):
        if target < 0:
            raise ValueError(f"request {request.request_id!r} has target {target}; targets are item integers")
        if not request.available(np.array(target)):
            raise ValueError(
                f"request {request.request_id!r} excludes (or does not allow) its own target (item "
                f"{target}), which no method could then return; leave repeats out of the test instances, or "
                "do not exclude what was seen"
            )
        if len(request.history_times) and request.history_times.max() >= request.time:
            raise ValueError(
                f"the history of request {request.request_id!r} reaches its own moment {request.time} "
                "or later; build it from events strictly before that moment"
            )


def _refuse_twice(requests: Sequence[Request]) -> None:
    if isinstance(requests, Requests) and len(np.unique(requests.numbers)) == len(requests):
        return  # of events, each with an id of its own
    names = [(request.user, request.request_id, request.time) for request in requests]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"request {twice[1]!r} occurs twice (same user, id and time): its draws would be the same"
        )
