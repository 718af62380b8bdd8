"""Labelled targets, what they are compared with, and the objectives on them that Stage 2 trains by.

An instance is a request (its query in the prompt) and a target with a label: one shown item and whether it
was engaged with, or the whole shown list and whether most of it was. Policy and reference read the same
prompt and share one normaliser: the trie without what the request excludes. Log-probabilities are of the
target's codes alone, so no soft token is ever counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from llm.align.objectives import engagement_loss, kl_baseline, kto_loss
from llm.decoding.scoring import list_log_probs_of
from llm.methods.stage2 import Instances, Stage2Config, World, batch_rows, own_share
from llm.prompts.reading import Reading
from recsys.data.dataset import Dataset
from recsys.embeddings.user_vectors import UserVectors
from recsys.engagement.shown_lists import GENERATOR, GENERATOR_VALIDATION, ShownLists
from recsys.recommender import Request
from recsys.seeds import rng
from recsys.training import distributed

Target = Literal["item", "list"]


class Labelled(Instances):
    """n instances of some shown lists; those whose user has no vector are left out, for every row alike.

    `lists` are the targets (arrays of items, of one where the target is an item), `labels` [n] (bool) whether
    they were engaged with: of a list, whether more than half of it was. `left_out` counts instances.
    """

    def __init__(
        self, dataset: Dataset, shown: ShownLists, indices: np.ndarray, users: UserVectors, target: Target
    ):
        requests = shown.requests(indices, dataset)
        _, known = users.vectors(requests)
        self.requests: list[Request] = []
        self.lists: list[np.ndarray] = []
        labels: list[bool] = []
        self.left_out = 0
        for index, request, has_vector in zip(indices.tolist(), requests, known, strict=True):
            items, engaged = shown.shown(index)
            if target == "list":
                _refuse_repeats(index, items)
                items, engaged = items[None], np.array([engaged.mean() > 0.5])
            else:
                items = items[:, None]
            if not has_vector:
                self.left_out += len(items)
                continue
            self.requests += [request] * len(items)
            self.lists += list(items)
            labels += engaged.tolist()
        self.labels = np.array(labels, dtype=bool)

    def only(self, rows: np.ndarray) -> Labelled:
        """Some of the instances."""
        some = Labelled.__new__(Labelled)
        some.requests, some.lists = [self.requests[row] for row in rows], [self.lists[row] for row in rows]
        some.labels, some.left_out = self.labels[rows], self.left_out
        return some

    def facts(self) -> dict[str, int]:
        """What `align.json` says of them."""
        desirable = int(self.labels.sum())
        return {
            "requests": len({request.request_id for request in self.requests}),
            "desirable": desirable,
            "undesirable": len(self) - desirable,
            "without_a_vector": self.left_out,
        }


def _refuse_repeats(index: int, items: np.ndarray) -> None:
    values, counts = np.unique(items, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"shown list {index} has item {values[counts > 1][0]} more than once: no list that is drawn without replacement "
            "is like that, so it has no probability; drop the repetition, or set align.target: item"
        )


@dataclass
class LabelledWorld(World):
    """A world whose instances are the labelled ones of the generator's parts,
    and whose artifacts are those of `align`.
    """

    shown: ShownLists = field(kw_only=True)
    target: Target = field(kw_only=True)

    @classmethod
    def around(cls, world: World, settings: Stage2Config, shown: ShownLists, target: Target) -> LabelledWorld:
        """The same frozen things, other instances."""
        given = {one.name: getattr(world, one.name) for one in fields(World)}
        return cls(**given | {"settings": settings}, shown=shown, target=target)

    @cached_property
    def train(self) -> Labelled:
        return self._part(GENERATOR, "generator")

    @cached_property
    def validation(self) -> Labelled:
        """At most `validation_instances`, in an order drawn once:
        neighbours are of different requests, as in training.
        """
        whole = self._part(GENERATOR_VALIDATION, "generator_validation")
        order = rng(0, "labelled validation").permutation(len(whole))
        return whole.only(order[: self.settings.validation_instances or len(whole)])

    @cached_property
    def trained_users(self) -> np.ndarray:
        if not len(self.shown):  # of a run exported without them: no row of anybody's is served
            return np.zeros(self.dataset.n_users, dtype=bool)
        users = np.array([request.user for request in self.train.requests if request.user is not None], int)
        return np.bincount(users, minlength=self.dataset.n_users) > 0

    def made(self, name: str) -> Path:
        return self.run.artifact("align", name) if self.folder is None else self.folder / name

    def _part(self, part: int, name: str) -> Labelled:
        found = Labelled(self.dataset, self.shown, self.shown.of(part), self.users, self.target)
        if not found.labels.any():
            raise ValueError(
                f"the part {name!r} of the shown lists has no {self.target} that a user with a vector engaged with "
                f"({len(found)} targets, {found.left_out} left out for want of a vector); bring more labelled lists"
            )
        return found


# -- the reference -------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """What π_ref is, and its log-probabilities of the instances, computed once and kept in `folder`.

    `reading(seed)` is the reference of a replica; `name(seed)` names its files. Of the training instances
    only those are scored that `steps` steps come to.
    """

    world: LabelledWorld
    reading: Callable[[int], Reading]
    name: Callable[[int], str]
    folder: Path
    steps: int
    _read: dict[int, Reading] = field(default_factory=dict)
    _kept: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)

    def of(self, seed: int) -> Reading:
        if seed not in self._read:
            self._read[seed] = self.reading(seed)
        return self._read[seed]

    def log_probs(self, part: Literal["train", "validation"], seed: int) -> torch.Tensor:
        """log π_ref [n] (float32) of the instances of a part; NaN where it is not needed."""
        if (part, seed) not in self._kept:
            instances: Labelled = getattr(self.world, part)
            rows = self._needed(len(instances), seed) if part == "train" else np.arange(len(instances))
            # named by what it holds: rows and seeds of the table that need the same share it
            digest = hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()
            path = self.folder / f"reference-{self.name(seed)}-{part}-{digest}.safetensors"
            written = partial(self._write, path, instances.only(rows), self.of(seed))
            distributed.by_main(lambda: None if path.exists() else written())
            values = torch.full((len(instances),), torch.nan)
            values[torch.from_numpy(rows)] = load_file(path)["log_probs"]
            self._kept[part, seed] = values.to(self.world.model.device)
        return self._kept[part, seed]

    def _needed(self, n: int, seed: int) -> np.ndarray:
        """The first steps are the first rows of the first epoch; a whole epoch is every row."""
        return np.sort(batch_rows(n, min(n, self.steps * self.world.settings.batch), 0, seed))

    @staticmethod
    def _write(path: Path, instances: Labelled, reading: Reading) -> None:
        values = list_log_probs_of(reading, instances.requests, instances.lists)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        save_file({"log_probs": torch.from_numpy(values).float()}, str(temporary))
        temporary.replace(path)


# -- objectives ----------------------------------------------------------------------------------------------


def target_log_probs(
    reading: Reading, requests: Sequence[Request], lists: Sequence[np.ndarray]
) -> torch.Tensor:
    """log π [B] of a target a request; differentiable in the personalizer."""
    return _log_probs(reading, *reading.conditioned(reading.prompts(requests), requests), requests, lists)


def _log_probs(reading: Reading, prompts, condition, requests: Sequence[Request], lists) -> torch.Tensor:
    excluded, allowed = [request.exclude for request in requests], [request.allow for request in requests]
    return reading.model.list_log_probs(prompts, lists, condition, excluded, allowed)


@dataclass
class Likelihood:
    """−mean log π(y | x) of the desirable targets alone (E2P eq. 4):
    what the engaged items, or lists, are like.
    """

    world: LabelledWorld
    measure = "minus_loss"

    @cached_property
    def _train(self) -> Labelled:
        return self.world.train.only(np.flatnonzero(self.world.train.labels))

    @cached_property
    def _validation(self) -> Labelled:
        return self.world.validation.only(np.flatnonzero(self.world.validation.labels))

    def loss(self, reading: Reading, step: int, seed: int) -> tuple[torch.Tensor, int]:
        batch = batch_rows(len(self._train), self.world.settings.batch, step, seed)
        some = self._train.only(batch[own_share(reading, len(batch))])
        return -target_log_probs(reading, some.requests, some.lists).mean(), len(some)

    def value(self, reading: Reading, seed: int) -> float:
        some = self._validation
        return float(list_log_probs_of(reading, some.requests, some.lists).mean())


@dataclass
class Feedback:
    """Both labels, against a reference: `engagement` (E2P eq. 5) or `kto`,
    with the `weights` that `llm.align.objectives` names.

    A KL pair of KTO is a request with the target of the one before it in its batch: prompt, prefix and
    updates stay with their request. A rotated target that the request excludes is made available for that
    pair, to policy and reference alike; a batch of one has no pair.
    """

    world: LabelledWorld
    kind: Literal["engagement", "kto"]
    reference: Reference
    beta: float
    weights: dict[str, float]
    measure = "minus_loss"

    def loss(self, reading: Reading, step: int, seed: int) -> tuple[torch.Tensor, int]:
        batch = batch_rows(len(self.world.train), self.world.settings.batch, step, seed)
        mine = own_share(reading, len(batch))
        known = self.reference.log_probs("train", seed)
        return self._loss(
            reading, self.world.train, batch, mine, known, seed, distributed.mean
        ), mine.stop - mine.start

    @torch.no_grad()
    def value(self, reading: Reading, seed: int) -> float:
        """Minus the loss over validation, in fixed batches; every process computes all of it."""
        some, known = self.world.validation, self.reference.log_probs("validation", seed)
        total = 0.0
        for batch in _in_order(len(some), self.world.settings.batch):
            whole = slice(0, len(batch))
            total += float(self._loss(reading, some, batch, whole, known, seed, torch.divide)) * len(batch)
        return -total / len(some)

    def _loss(
        self,
        reading: Reading,
        instances: Labelled,
        batch: np.ndarray,
        mine: slice,
        known: torch.Tensor,
        seed: int,
        mean: Callable[[torch.Tensor, int], torch.Tensor],
    ) -> torch.Tensor:
        """Of the rows `mine` of a batch; the KL baseline is the whole batch's:
        `mean` divides a sum by a count, over all processes.
        """
        some = instances.only(batch[mine])
        prompts, condition = reading.conditioned(reading.prompts(some.requests), some.requests)
        log_probs = _log_probs(reading, prompts, condition, some.requests, some.lists)
        reference = known[torch.from_numpy(batch[mine]).to(known.device)]
        engaged = torch.from_numpy(some.labels).to(known.device)
        if self.kind == "engagement":
            return engagement_loss(log_probs, reference, engaged, self.beta, **self.weights)
        baseline = log_probs.new_zeros(())
        if len(batch) > 1:
            with torch.no_grad():
                whole = instances.only(batch)
                pairs, moved = rotated(whole.requests, whole.lists)
                pairs, moved = pairs[mine], moved[mine]
                ours = _log_probs(reading, prompts, condition, pairs, moved)
                theirs = target_log_probs(self.reference.of(seed), pairs, moved)
                baseline = kl_baseline(ours, theirs, mean)
        return kto_loss(log_probs, reference, engaged, baseline, self.beta, **self.weights)


def rotated(
    requests: Sequence[Request], lists: Sequence[np.ndarray]
) -> tuple[list[Request], list[np.ndarray]]:
    """KL pairs: each request of a batch with the target before its own, which it may then get."""
    moved = [lists[-1], *lists[:-1]]
    return [_may_get(request, items) for request, items in zip(requests, moved, strict=True)], moved


def _may_get(request: Request, items: np.ndarray) -> Request:
    if request.available(items).all():
        return request
    allow = None if request.allow is None else np.union1d(request.allow, items)
    return replace(request, exclude=np.setdiff1d(request.exclude, items), allow=allow)


def _in_order(n: int, batch: int) -> Iterator[np.ndarray]:
    for start in range(0, n, batch):
        yield np.arange(start, min(start + batch, n))
