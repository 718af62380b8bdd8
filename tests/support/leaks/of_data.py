"""Leaks of what is counted, of what is read of a user at a moment, and of users who are held out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llm.methods.p2p import profiles
from llm.methods.tap_per import Histories
from llm.prompts.contexts import Profile, Records
from recsys.data import build, user_splits
from recsys.data.catalogue import ItemTotals
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, PERSONALIZE
from recsys.embeddings.user_vectors import HistoryVectors, NeighbourVectors
from recsys.recommender import Request
from tests.support.leaks.mutant import (
    GONE,
    OTHERS,
    WINDOW,
    cached,
    mutant,
    wrapped,
)

# -- what is counted -----------------------------------------------------------------------------------------


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

    wrapped(m, build, "assign_roles", of)


def _totals(m: pytest.MonkeyPatch, part: str) -> None:
    honest = Dataset.__dict__["item_totals"].func

    def planted(data: Dataset) -> ItemTotals:
        all_of_them = ItemTotals.of(data.items, data.times, data.n_items)
        return replace(honest(data), **{part: getattr(all_of_them, part)})

    cached(m, Dataset, "item_totals", planted)


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


# -- what is read of a user at a moment ----------------------------------------------------------------------


def _whole(m: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each user's whole list (items, times) by request id, kept as requests are made."""
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def of(honest: Any) -> Any:
        def planted(self: Dataset, events: np.ndarray, exclude_seen: bool) -> list[Request]:
            made = honest(self, events, exclude_seen)
            for event, request in zip(events, made, strict=True):
                mine = slice(self.offsets[self.users[event]], self.offsets[self.users[event] + 1])
                lists[request.request_id] = self.items[mine], self.times[mine]
            return made

        return planted

    wrapped(m, Dataset, "block", of)
    return lists


@mutant("a history holds its own event", "recsys.data.dataset: history_end", None, "request", looks="answers")
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: Dataset) -> None:
            honest(self)
            self.history_end = self.history_end + 1

        return planted

    wrapped(m, Dataset, "__post_init__", of)


@mutant(
    "the past reaches the moment (side right)", "recsys.data.dataset: before", None, "before", looks="answers"
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda self, user, time: honest(self, user, time + 1)

    wrapped(m, Dataset, "before", of)


@mutant("later items are excluded too", "recsys.data.dataset: block", None, "request", looks="answers")
def _(m: pytest.MonkeyPatch) -> None:
    lists = _whole(m)

    def of(honest: Any) -> Any:
        def planted(self: Dataset, events: np.ndarray, exclude_seen: bool) -> list[Request]:
            made = honest(self, events, exclude_seen)
            for at, event in enumerate(events):
                items = lists[made[at].request_id][0]
                made[at] = replace(made[at], exclude=np.unique(items[items != self.items[event]]))
            return made

        return planted

    wrapped(m, Dataset, "block", of)


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

    def of(honest: Any) -> Any:  # beside neighbours a history is summed without `vectors`
        return lambda self, asked: honest(
            self, [replace(one, history=lists[one.request_id][0]) for one in asked]
        )

    wrapped(m, NeighbourVectors, "_of", of)


def _later_context(m: pytest.MonkeyPatch, context: type) -> None:
    lists = _whole(m)

    def of(honest: Any) -> Any:
        def planted(self: Any, builder: Any, request: Request, shown: Any, earlier: Any) -> list[int]:
            return honest(self, builder, request, shown, lists[request.request_id][0])

        return planted

    wrapped(m, context, "tokens", of)


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
        wrapped(
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


# -- what a Stage 1 window shows before its target -----------------------------------------------------------


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


# -- whole users held out ------------------------------------------------------------------------------------


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

    wrapped(m, Phrases, "_unseen", of)
