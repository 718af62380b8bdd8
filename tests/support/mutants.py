"""Planted leaks: one for each place that reads events. Each is a wrong line that somebody might write.

A mutant names the change of the world (`tests.support.leak_worlds`) that must not matter, the stage from which a run is
made again under it, and what of that run must then be seen to differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from llm.decoding.recommender import SidRecommender
from llm.methods import stage2
from llm.methods.p2p import profiles
from llm.methods.p2p.method import P2PConfig
from llm.methods.stage2 import Instances, NextItem, World
from llm.methods.tap_per import Histories
from llm.prompts.contexts import Profile, Records
from llm.stage1 import adapt, windows
from llm.stage1.words import Words
from recsys.data import build, user_splits
from recsys.data.dataset import Dataset, ItemTotals
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.embeddings import embed, sequence_parts
from recsys.embeddings.embed import _Work
from recsys.embeddings.sasrec import Ranking
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Request
from semantic_ids import tokenize_items
from serving.stages import combine, rows

Plant = Callable[[pytest.MonkeyPatch], None]
TARGETS, GONE = "other test targets", "deleted test events"
LATER, EARLIER = "other validation targets", "other Stage 2 targets"
WINDOW, OTHERS = "other window targets", "other events of held-out users"


@dataclass(frozen=True)
class Mutant:
    name: str
    place: str  # module and what in it
    plant: Plant
    stage: (
        str | None
    )  # from which (to which) a run is made again; None: none is, what it answers is looked at
    seen: str  # the start of a name that must be among the differences
    change: str = TARGETS
    looks: str = "learned"  # a key of `tests.support.leak_worlds.LOOKS`


MUTANTS: list[Mutant] = []


def mutant(name: str, place: str, stage: str | None, seen: str, **more: str) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        MUTANTS.append(Mutant(name, place, plant, stage, seen, **more))
        return plant

    return add


def _test_of(data: Dataset) -> tuple[list[Request], np.ndarray]:
    events = data.instances(TEST)
    return data.requests(events, data.exclude_seen), data.items[events]


def _as(data: Dataset, role: int, counts_as: int) -> Dataset:
    """The data with events of `role` counted as `counts_as`."""
    return replace(data, roles=np.where(data.roles == role, counts_as, data.roles).astype(np.int8))


def _cached(m: pytest.MonkeyPatch, owner: type, name: str, function: Callable[[Any], Any]) -> None:
    made = cached_property(function)
    made.__set_name__(owner, name)
    m.setattr(owner, name, made)


def _wrapped(m: pytest.MonkeyPatch, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """`owner.name` replaced by `wrap(what it was)`."""
    m.setattr(owner, name, wrap(getattr(owner, name)))


# -- what is counted --------------------------------------------------------------------------------------------


@mutant(
    "the split counts test events",
    "recsys.data.splits",
    "prepare",
    "earlier",
    change=GONE,
    looks="earlier events",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(users: np.ndarray, times: np.ndarray, config: Any) -> np.ndarray:
            roles, cut = honest(users, times, config), np.quantile(times, 0.5)
            training = np.isin(roles, (FIT, PERSONALIZE))
            return np.where(training, np.where(times >= cut, PERSONALIZE, FIT), roles).astype(np.int8)

        return planted

    _wrapped(m, build, "assign_roles", of)


def _totals(m: pytest.MonkeyPatch, part: str) -> None:
    honest = Dataset.__dict__["item_totals"].func

    def planted(data: Dataset) -> ItemTotals:
        all_of_them = ItemTotals.of(data.items, data.times, data.n_items)
        return replace(honest(data), **{part: getattr(all_of_them, part)})

    _cached(m, Dataset, "item_totals", planted)


@mutant(
    "popularity counts test events",
    "recsys.data.dataset: item_totals",
    "combine",
    "scores of popularity",
    looks="baselines",
)
def _(m: pytest.MonkeyPatch) -> None:
    _totals(m, "counts")


@mutant(
    "products multiply a popularity that counts test events",
    "recsys.data.dataset: item_totals",
    "combine",
    "combine/combine.json",
)
def _(m: pytest.MonkeyPatch) -> None:
    _totals(m, "counts")


@mutant(
    "recency counts test events",
    "recsys.data.dataset: item_totals",
    None,
    "scores of recency",
    looks="baselines",
)
def _(m: pytest.MonkeyPatch) -> None:
    _totals(m, "last")


# -- embed ------------------------------------------------------------------------------------------------------


def _edges_of_test(m: pytest.MonkeyPatch) -> None:
    def planted(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
        learned = np.isin(data.roles, (FIT, PERSONALIZE, TEST))
        return data.users[learned], data.items[learned]

    m.setattr(sequence_parts, "_training_edges", planted)


@mutant(
    "item-kNN learns test edges",
    "recsys.embeddings.sequence_parts",
    None,
    "scores of item_knn",
    looks="baselines",
)
def _(m: pytest.MonkeyPatch) -> None:
    _edges_of_test(m)


@mutant(
    "item-kNN's numbers come of test edges",
    "recsys.embeddings.sequence_parts",
    "embed",
    "embed/embed.json:item_knn",
)
def _(m: pytest.MonkeyPatch) -> None:
    _edges_of_test(m)


@mutant(
    "item-kNN's two numbers chosen on test",
    "recsys.embeddings.embed: run",
    "embed",
    "embed/embed.json:item_knn.half_life_items",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda config, data, requests, targets, k: honest(config, data, *_test_of(data), k)

    _wrapped(m, sequence_parts, "item_knn_part", of)


def _asks_test(m: pytest.MonkeyPatch, name: str, when: Callable[..., bool]) -> None:
    """A method of `embed`'s work reads test instances where it asks for validation's."""

    def of(honest: Any) -> Any:
        def planted(self: _Work, *given: Any) -> Any:
            if when(self, *given):
                self._instances = lambda role: _Work._instances(self, TEST)  # type: ignore[method-assign]
            try:
                return honest(self, *given)
            finally:
                self.__dict__.pop("_instances", None)

        return planted

    _wrapped(m, _Work, name, of)


@mutant(
    "retrieval's half-life chosen on test",
    "recsys.embeddings.embed: _refit",
    "embed",
    "embed/embed.json:retrieval.half_life_items",
)
def _(m: pytest.MonkeyPatch) -> None:
    _asks_test(m, "_choose_half_life", lambda work, *given: given[2] is work.config.half_lives)


@mutant(
    "the users' half-life chosen on test",
    "recsys.embeddings.embed: _user_vectors",
    "embed",
    "embed/embed.json:half_life_items",
)
def _(m: pytest.MonkeyPatch) -> None:
    _asks_test(m, "_choose_half_life", lambda work, *given: given[2] is work.config.user_half_lives)


@mutant(
    "LightGCN's best step chosen on test",
    "recsys.embeddings.embed: _best_lightgcn",
    "embed",
    "embed/user_messages.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    _asks_test(m, "_best_lightgcn", lambda work, name: True)


@mutant(
    "retrieval's LightGCN learns test edges",
    "recsys.embeddings.embed: ROLES",
    "embed",
    "embed/retrieval.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(embed.ROLES, embed.REFIT, (FIT, PERSONALIZE, TEST))


@mutant(
    "the conditioning graph learns Stage 2's targets",
    "recsys.embeddings.embed: ROLES",
    "embed",
    "embed/user_messages.safetensors",
    change=EARLIER,
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(embed.ROLES, embed.GENERATOR, (FIT, PERSONALIZE))


@mutant(
    "the conditioning graph learns validation",
    "recsys.embeddings.embed: ROLES",
    "embed",
    "embed/user_messages.safetensors",
    change=LATER,
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(embed.ROLES, embed.GENERATOR, (FIT, VALIDATION))


@mutant(
    "SASRec trained on test",
    "recsys.embeddings.sequence_parts: ROLES",
    "embed",
    "embed/sasrec_retrieval.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(sequence_parts.ROLES, sequence_parts.RETRIEVAL, (FIT, PERSONALIZE, TEST))


@mutant(
    "the users' SASRec learns Stage 2's targets",
    "recsys.embeddings.sequence_parts: ROLES",
    "embed",
    "embed/sasrec_users.safetensors",
    change=EARLIER,
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(sequence_parts.ROLES, sequence_parts.USERS, (FIT, PERSONALIZE))


@mutant(
    "SASRec's early stopping on test",
    "recsys.embeddings.sequence_parts: _held_out",
    "embed",
    "embed/sasrec_retrieval.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(
        sequence_parts, "_held_out", lambda config, data, seed: Ranking(*_test_of(data), config.max_items)
    )


@mutant(
    "semantic IDs of the refit's vectors",
    "semantic_ids.tokenize_items",
    "tokenize",
    "tokenize/semantic_ids.safetensors",
    change=EARLIER,
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda path: (
            honest(path) | {"collaborative": honest(path.with_name("retrieval.safetensors"))["items"]}
        )

    _wrapped(m, tokenize_items, "load_file", of)


# -- adapt ------------------------------------------------------------------------------------------------------


def _windows_hold(role: int) -> Plant:
    def plant(m: pytest.MonkeyPatch) -> None:
        def of(honest: Any) -> Any:
            return lambda data, *given: honest(_as(data, role, FIT), *given)

        _wrapped(m, windows, "windows_of_epoch", of)

    return plant


for _role, _name, _change in (
    (PERSONALIZE, "Stage 2's", EARLIER),
    (VALIDATION, "validation's", LATER),
    (TEST, "test", TARGETS),
):
    mutant(
        f"Stage 1's windows hold {_name} targets", "llm.stage1.windows: windows_of_epoch", "adapt", "adapt/sid_rows.safetensors",
        change=_change,
    )(_windows_hold(_role))  # fmt: skip


@mutant(
    "Stage 1 stops by test events",
    "llm.stage1.adapt: validation_events",
    "adapt",
    "adapt/sid_rows.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(adapt, "validation_events", lambda data, at_most, seed: data.instances(TEST))


@mutant(
    "Stage 1's words lead to test items", "llm.stage1.words: events", "adapt", "adapt/sid_rows.safetensors"
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: Words, dataset: Dataset, *given: Any) -> None:
            honest(self, dataset, *given)
            self.events = dataset.events(TEST)

        return planted

    _wrapped(m, Words, "__init__", of)


@mutant(
    "Stage 1 reads queries of test events",
    "recsys.data.phrases: _asked",
    "adapt",
    "adapt/sid_rows.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda self, *roles: honest(self, *(role for role in roles if role != TEST))

    _wrapped(m, Phrases, "_about", of)


@mutant(
    "Stage 1's figures are of queries of test events",
    "llm.stage1.adapt: _understanding",
    "adapt",
    "adapt/adapt.json:queries",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(Phrases, "before_test", lambda self: self)


@mutant(
    "windows draw by the event's number",
    "llm.stage1.windows: window",
    "adapt",
    "adapt/sid_rows.safetensors",
    change=GONE,
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: Any, events: np.ndarray, epoch: int) -> Any:
            self.seed = (seed := self.seed) + int(events[0])
            try:
                return honest(self, events, epoch)
            finally:
                self.seed = seed

        return planted

    _wrapped(m, windows.WindowBuilder, "window", of)


# -- personalize ------------------------------------------------------------------------------------------------


def _trains_on(role: int) -> Plant:
    def plant(m: pytest.MonkeyPatch) -> None:
        def planted(world: World) -> Instances:
            data = world.dataset
            events = np.sort(np.concatenate([data.instances(PERSONALIZE), data.instances(role)]))
            return Instances(data, events, world.users)

        _cached(m, World, "train", planted)

    return plant


for _role, _name, _change in ((VALIDATION, "validation", LATER), (TEST, "test", TARGETS)):
    mutant(
        f"Stage 2 trains on {_name}",
        "llm.methods.stage2: train",
        "personalize",
        "personalize/e2p-0.safetensors",
        change=_change,
    )(_trains_on(_role))


class _OnTest(NextItem):
    def value(self, reading: Any, seed: int) -> float:
        return stage2.shared_hit_rate(reading, *_test_of(self.world.dataset))


def _fits_by_test(m: pytest.MonkeyPatch, pilots: bool) -> None:
    def of(honest: Any) -> Any:
        def planted(label: str, world: World, goal: Any, *given: Any) -> Any:
            return honest(label, world, _OnTest(world) if given[-1] == pilots else goal, *given)

        return planted

    _wrapped(m, stage2, "_fit", of)


@mutant(
    "Stage 2's rate chosen on test",
    "llm.methods.stage2: pilots",
    "personalize",
    "personalize/personalize.json:methods.e2p-0.learning_rate",
)
def _(m: pytest.MonkeyPatch) -> None:
    _fits_by_test(m, True)


@mutant("Stage 2 stops by test", "llm.methods.stage2: _fit", "personalize", "personalize/e2p-0.safetensors")
def _(m: pytest.MonkeyPatch) -> None:
    _fits_by_test(m, False)


@mutant(
    "P_u learns test events",
    "llm.methods.stage2: NextItem",
    "personalize",
    "personalize/tap_per-0.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: NextItem, reading: Any, step: int, seed: int) -> Any:
            if reading.personalizer is None or not reading.personalizer.user_rows:
                return honest(self, reading, step, seed)
            requests, targets = _test_of(self.world.dataset)
            return stage2.lm_loss(reading, requests[:8], targets[:8]), 8

        return planted

    _wrapped(m, NextItem, "loss", of)


@mutant(
    "P2P's scale is of test profiles",
    "llm.methods.p2p.method: prepare",
    "personalize",
    "personalize/p2p-0.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: P2PConfig, world: World, folder: Any) -> None:
            honest(self, world, folder)
            self.profiles(world).take_moments(_test_of(world.dataset)[0])

        return planted

    _wrapped(m, P2PConfig, "prepare", of)


# -- combine and evaluate ---------------------------------------------------------------------------------------


@mutant(
    "products' weights chosen on test",
    "serving.stages.combine",
    "combine",
    "combine/combine.json:products.e2p-0.values",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(combine, "validation_events", lambda data, at_most, seed: data.instances(TEST))


def _temperatures_by_test(m: pytest.MonkeyPatch, generators: bool) -> None:
    honest_of, honest = rows.Validation.of, rows.Validation.temperature
    tests: dict[int, Any] = {}

    def of(methods: Any, chosen: Any) -> Any:
        validation = honest_of(methods, chosen)
        tests[id(validation)] = rows.Validation(*_test_of(methods.dataset), chosen)
        return validation

    def planted(self: Any, name: str, method: Any, grid: Any, n: int = 30) -> float:
        wrong = isinstance(method, SidRecommender) == generators
        return honest(tests[id(self)] if wrong else self, name, method, grid, n)

    m.setattr(rows.Validation, "of", of)
    m.setattr(rows.Validation, "temperature", planted)


@mutant(
    "temperatures chosen on test", "serving.stages.rows: Validation", None, "temperature of ", looks="chosen"
)
def _(m: pytest.MonkeyPatch) -> None:
    _temperatures_by_test(m, True)


@mutant(
    "a softmax row's T0 chosen on test", "serving.stages.rows: Validation", None, "T0 of ", looks="chosen"
)
def _(m: pytest.MonkeyPatch) -> None:
    _temperatures_by_test(m, False)


# -- what is read of a user at a moment -------------------------------------------------------------------------


def _whole(m: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Everybody's whole list (items, times) by request id, filled as requests are made: what a wrong line could read."""
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def of(honest: Any) -> Any:
        def planted(self: Dataset, event: int, exclude_seen: bool) -> Request:
            request = honest(self, event, exclude_seen)
            mine = slice(self.offsets[self.users[event]], self.offsets[self.users[event] + 1])
            lists[request.request_id] = self.items[mine], self.times[mine]
            return request

        return planted

    _wrapped(m, Dataset, "request", of)
    return lists


@mutant("a history holds its own event", "recsys.data.dataset: history_end", None, "request", looks="answers")
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: Dataset) -> None:
            honest(self)
            self.history_end = self.history_end + 1

        return planted

    _wrapped(m, Dataset, "__post_init__", of)


@mutant(
    "the past reaches the moment (side right)", "recsys.data.dataset: before", None, "before", looks="answers"
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda self, user, time: honest(self, user, time + 1)

    _wrapped(m, Dataset, "before", of)


@mutant("later items are excluded too", "recsys.data.dataset: request", None, "request", looks="answers")
def _(m: pytest.MonkeyPatch) -> None:
    lists = _whole(m)

    def of(honest: Any) -> Any:
        def planted(self: Dataset, event: int, exclude_seen: bool) -> Request:
            request = honest(self, event, exclude_seen)
            items = lists[request.request_id][0]
            return replace(request, exclude=np.unique(items[items != self.items[event]]))

        return planted

    _wrapped(m, Dataset, "request", of)


@mutant(
    "user vectors of the data's end", "recsys.embeddings.user_vectors", None, "scores of e2p", looks="answers"
)
def _(m: pytest.MonkeyPatch) -> None:
    lists = _whole(m)
    m.setattr(
        HistoryVectors,
        "vectors",
        lambda self, asked: self.of_histories([lists[one.request_id][0] for one in asked]),
    )


def _later_context(m: pytest.MonkeyPatch, context: type) -> None:
    lists = _whole(m)

    def of(honest: Any) -> Any:
        def planted(self: Any, builder: Any, request: Request, shown: Any, earlier: Any) -> list[int]:
            return honest(self, builder, request, shown, lists[request.request_id][0])

        return planted

    _wrapped(m, context, "tokens", of)


@mutant("RAG finds later records", "llm.prompts.contexts: Records", None, "scores of rag", looks="answers")
def _(m: pytest.MonkeyPatch) -> None:
    _later_context(m, Records)


@mutant(
    "the text profile tells of later events",
    "llm.prompts.contexts: Profile",
    None,
    "scores of prompt_context",
    looks="answers",
)
def _(m: pytest.MonkeyPatch) -> None:
    _later_context(m, Profile)


@mutant(
    "P2P's profile tells of later events", "llm.methods.p2p.profiles", None, "scores of p2p", looks="answers"
)
def _(m: pytest.MonkeyPatch) -> None:
    lists = _whole(m)

    def all_of(request: Request) -> Request:
        return replace(request, history=lists[request.request_id][0])

    for name in ("text", "key"):
        _wrapped(
            m, profiles.ProfileText, name, lambda honest: lambda self, request: honest(self, all_of(request))
        )


@mutant(
    "P_q attends over later records",
    "llm.methods.tap_per: Histories",
    None,
    "scores of tap_per",
    looks="answers",
)
def _(m: pytest.MonkeyPatch) -> None:
    lists, honest = _whole(m), Histories.of

    def planted(requests: Any, *given: Any) -> Histories:
        whole = [
            replace(
                one,
                history=lists[one.request_id][0],
                history_times=np.minimum(lists[one.request_id][1], one.time - 1),
            )
            for one in requests
        ]
        return honest(whole, *given)

    m.setattr(Histories, "of", planted)


# -- what a Stage 1 window shows before its target ----------------------------------------------------------------


@mutant(
    "a window's profile tells of its target",
    "llm.stage1.windows: Profile",
    None,
    "profile",
    change=WINDOW,
    looks="windows",
)
def _(m: pytest.MonkeyPatch) -> None:
    _later_context(m, Profile)


@mutant(
    "a window's records hold its target",
    "llm.stage1.windows: Records",
    None,
    "records",
    change=WINDOW,
    looks="windows",
)
def _(m: pytest.MonkeyPatch) -> None:
    _later_context(m, Records)


# -- whole users held out ---------------------------------------------------------------------------------------


@mutant(
    "users are held out after learning",
    "recsys.data.user_splits",
    "prepare",
    "embed/user_messages.safetensors",
    change=OTHERS,
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(user_splits, "hold_out_users", lambda users, roles, groups: roles)


@mutant(
    "Stage 1 reads queries of held-out users",
    "recsys.data.phrases: _asked",
    "prepare",
    "adapt/sid_rows.safetensors",
    change=OTHERS,
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda self: np.zeros(len(self.dataset.queries), bool)

    _wrapped(m, Phrases, "_unseen", of)
