"""What a run has learned and answers, by name; and which names may differ where the world does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from evaluation.softmax import SoftmaxOver
from evaluation.table.instances import Question
from llm.stage1.windows import Shares, WindowBuilder
from recsys.data.dataset import Dataset
from recsys.data.splits import TEST, WARM
from recsys.embeddings import heterogeneous
from recsys.recommender import Request
from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.untrained import BASELINES, NO_CONTEXT
from serving.config.run import RunConfig
from serving.stages.default_method import choose_default
from serving.stages.rows import table_rows
from tests.support.leaks.mutant import OTHERS
from tests.support.leaks.runs import STAGES
from tests.support.leaks.worlds import (
    ITEMS,
    PERSONALIZE_FROM,
    START,
    STEP,
    TEST_FROM,
    VALIDATION_FROM,
    WINDOW_AT,
)

Learned = dict[str, Any]
NEVER_BEFORE = -(1 << 62)
NEIGHBOUR_STEPS = (
    ("fit", NEVER_BEFORE, PERSONALIZE_FROM),
    ("personalize", PERSONALIZE_FROM, VALIDATION_FROM),
    ("validation", VALIDATION_FROM, TEST_FROM),
)


def learned(run: Run) -> Learned:
    """Each artifact of `STAGES` by `stage/name`: its hash, or of JSON every leaf by `stage/name:key.key`."""
    found: Learned = {}
    for stage in STAGES:
        for name, digest in (run.record(stage) or {"artifacts": {}})["artifacts"].items():
            if name == heterogeneous.FILE:
                found |= _neighbours(run, f"{stage}/{name}")
            elif name.endswith(".json"):
                text = (run.path / stage / name).read_text(encoding="utf-8")
                found |= _leaves(f"{stage}/{name}:", json.loads(text))
            else:
                found[f"{stage}/{name}"] = digest
    return found


def _neighbours(run: Run, name: str) -> Learned:
    """Rows before the test by whose they are, and of which role's steps: a record of what people did, kept to be read
    strictly after its moment, with what the graph learned of FIT edges in it.
    """
    arrays, groups = load_file(run.path / name), Dataset.load(run).user_groups
    warm = groups[arrays["users"]] == WARM
    steps = (arrays["times"] - START) // STEP  # far below zero where an edge was there always
    found: Learned = {}
    for role, first, last in NEIGHBOUR_STEPS:
        mine = (steps >= first) & (steps < last)
        for whose, rows in {"": mine & warm, " of held-out users": mine & ~warm}.items():
            found[f"{name} at {role}{whose}"] = {key: some[rows].tolist() for key, some in arrays.items()}
    return found


def _leaves(name: str, value: Any) -> Learned:
    if isinstance(value, dict):
        parts = [
            _leaves(f"{name}{'' if name.endswith(':') else '.'}{key}", part) for key, part in value.items()
        ]
        return {key: leaf for part in parts for key, leaf in part.items()}
    if name.endswith("target_modules"):  # a set's order, which differs between processes
        return {name: sorted(value)}
    return {name: value}


def baselines(config: RunConfig, run: Run) -> Learned:
    """What the untrained rows have counted: their scores of every item for fixed histories."""
    methods = Methods(run, config)
    histories = [np.arange(start, start + 12, 2) for start in range(0, 40, 5)]
    times = np.arange(6)
    asked = [Request(f"p{at}", None, 9, items, times) for at, items in enumerate(histories)]
    keys = [key for key in BASELINES if key != NO_CONTEXT]
    return {f"scores of {key}": _scores(methods, key, asked) for key in keys}


def earlier_events(config: RunConfig, run: Run) -> Learned:
    """The events before the test's cut, and their roles."""
    data = Methods(run, config).dataset
    early = data.times < START + STEP * TEST_FROM
    columns = (data.users, data.items, data.times, data.roles)
    return {"earlier events": [column[early].tolist() for column in columns]}


def chosen(config: RunConfig, run: Run) -> Learned:
    """What validation chose for `evaluate`: temperatures by row, and what answers each kind of request."""
    methods = Methods(run, config)
    data = methods.dataset
    events = data.instances(TEST)
    asked = Question(data.requests(events, data.exclude_seen), data.items[events], data.users[events])
    rows = table_rows(methods, asked)
    found: Learned = {f"temperature of {row.name}": row.temperature for row in rows}
    found |= {f"matched temperature of {row.name}": (row.matched, row.nats) for row in rows}
    for kind, ranked in choose_default(methods, rows, quiet=True)["kinds"].items():
        found[f"default of {kind}"] = [(one["key"], one["value"]) for one in ranked["ranked"]]
    return found | {
        f"T0 of {row.name}": one.t0 for row in rows for one in row.replicas if isinstance(one, SoftmaxOver)
    }


def answers(config: RunConfig, run: Run) -> Learned:
    """What each user's first test event is asked by, and each method's scores of every item for it."""
    methods = Methods(run, config)
    data = methods.dataset
    events = data.events(TEST)
    events = events[np.unique(data.users[events], return_index=True)[1]]
    asked = data.requests(events, data.exclude_seen)
    found: Learned = {"request": [_plain(request) for request in asked]}
    moments = zip(data.users[events].tolist(), data.times[events].tolist(), strict=True)
    found["before"] = [data.before(user, time)[0].tolist() for user, time in moments]
    trained = [method.key for method in config.personalize.methods]
    for key in [*BASELINES, *trained]:
        try:
            found[f"scores of {key}"] = _scores(methods, key, asked)
        except ValueError as error:  # a method may refuse a history that reaches its own moment
            found[f"scores of {key}"] = f"refused: {error}"
    return found


def window_heads(config: RunConfig, run: Run, changed: bool) -> Learned:
    """What Stage 1's windows of one event show before it, with a profile and with records.

    `changed`: of data in which these events and all later ones have other items.
    """
    methods, found = Methods(run, config), Learned()
    data, moment = methods.dataset, START + STEP * WINDOW_AT
    events = np.flatnonzero((data.times >= moment) & (data.times < moment + STEP))
    if changed:
        data = replace(data, items=np.where(data.times >= moment, (data.items + 17) % ITEMS, data.items))
    for name, shares in {"profile": Shares(1, 0, 0), "records": Shares(0, 0, 1)}.items():
        builder = WindowBuilder(data, methods.world.builder, shares, config.adapt.seed)
        made = [builder.window(event, 0) for event in events[:, None]]
        found[name] = [window.tokens[: window.starts[0]] for window in made]
    return found


def _scores(methods: Methods, key: str, asked: list[Request]) -> list[list[float]]:
    method: Any = methods.build(key)
    return np.asarray(method.scores(asked)).tolist()


def _plain(request: Request) -> tuple:
    parts = (request.history, request.history_times, np.sort(request.exclude))
    return request.user, request.time, *(part.tolist() for part in parts)


LOOKS: dict[str, Callable[[RunConfig, Run], Learned]] = {
    "learned": lambda config, run: learned(run),
    "baselines": baselines,
    "earlier events": earlier_events,
    "chosen": chosen,
    "answers": answers,
}

# What validation's figures are called: they may differ where validation differs, and what it weighs too
FIGURES = (
    r"embed/embed\.json:(.*validation_.*|leak_check\..*)",
    r"(embed|adapt|personalize)/curves\.json:.*\.(validation|best_value)",
    # queries are asked in the name of validation's users
    r"adapt/adapt\.json:(validation_expected_hit_rate@30|queries\..*)",
    r"personalize/personalize\.json:methods\..*validation_log_likelihood.*",
    # weights are fitted to validation targets, those of products for queries to what asks for these targets too
    r"combine/combine\.json:(query_)?products\..*",
)
# What learns Stage 2's targets: the refit, SASRec's retrieval model, item-kNN, counts, and Stage 2
OF_STAGE_2 = (
    r"embed/(retrieval|sasrec_retrieval)\.safetensors|embed/curves\.json:(LightGCN|SASRec) for retrieval\..*",
    r"personalize/(?!records)[\w/-]+\.safetensors|personalize/curves\.json:.*",
    r"personalize/personalize\.json:(methods\..*|instances)",
    r"scores of (popularity|recency|item_knn|embedding_retrieval|sasrec)",
)
# A tag of an event that is another one is another tag: it counts for its user from then on, and none is learned from
NEIGHBOURS = r"embed/neighbours\.safetensors at "
MAY_DIFFER = {
    "other validation targets": (*FIGURES, NEIGHBOURS + "validation"),
    "other Stage 2 targets": (*FIGURES, *OF_STAGE_2, NEIGHBOURS + "(personalize|validation)"),
    # what held-out users' own tags say of them; never what is said of others
    OTHERS: (NEIGHBOURS + r"\w+ of held-out users",),
}


def leaks(change: str, ours: Learned, theirs: Learned) -> list[str]:
    """Names of what differs on both sides of a change of the world, and must not."""
    may = MAY_DIFFER.get(change, ())
    return [
        name for name in differences(ours, theirs) if not any(re.fullmatch(pattern, name) for pattern in may)
    ]


def differences(ours: Learned, theirs: Learned) -> list[str]:
    """Names of what is not the same on both sides."""
    names = sorted(ours.keys() | theirs.keys())
    return [name for name in names if name not in ours or name not in theirs or ours[name] != theirs[name]]
