"""A small world with one clock, what is done to it that must not matter, and what a run has learned, by name.

Forty users walk through one half of 120 items each. Cuts in time are fixed, so replacing or deleting an event moves
the role of no other. A query that led to an event is a part of it: it goes with the event wherever that goes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.softmax import SoftmaxOver
from evaluation.table.instances import Question
from llm.stage1.windows import Shares, WindowBuilder
from recsys.data.splits import TEST
from recsys.data.user_splits import UserSplitConfig
from recsys.recommender import Request
from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.untrained import BASELINES, NO_CONTEXT
from serving.config.run import RunConfig
from serving.pipeline import run_stage
from serving.stages.rows import table_rows

USERS, ITEMS, STEPS = 40, 120, 24
START, STEP = 1_600_000_000, 1000
PERSONALIZE_FROM, VALIDATION_FROM, TEST_FROM = 13, 18, 21  # steps at which the roles of the split begin
WINDOW_AT = 8  # a step that Stage 1 learns
ASKED = (3, 15, 19, 22)  # steps that a query led to: one of each role
WORDS = ("amber", "brisk", "coral", "dusky")
STAGES = ("embed", "tokenize", "adapt", "personalize", "combine")  # after prepare, before evaluate


@dataclass(frozen=True)
class World:
    """`events`: user, item (whole numbers), step, in order of (user, step); `asked` [E]: did a query lead to it?"""

    events: pd.DataFrame
    asked: np.ndarray

    def rows(self, first: int, last: int) -> np.ndarray:
        """Places of the events of steps `first` to `last` − 1."""
        return np.flatnonzero((self.events["step"] >= first) & (self.events["step"] < last))

    def with_items(self, rows: np.ndarray, items: np.ndarray) -> World:
        events = self.events.copy()
        events.iloc[rows, events.columns.get_loc("item")] = items
        return World(events, self.asked)

    def without(self, rows: np.ndarray) -> World:
        keep = np.ones(len(self.events), bool)
        keep[rows] = False
        return World(self.events[keep].reset_index(drop=True), self.asked[keep])

    def write(self, folder: Path) -> None:
        """The three files of the world."""
        folder.mkdir(parents=True, exist_ok=True)
        users, items = (self.events[name].map(f"{name[0]}{{:03}}".format) for name in ("user", "item"))
        times = START + STEP * self.events["step"] + self.events["user"]
        rows = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
        rows.to_csv(folder / "events.csv", index=False)
        places = (self.events["item"] + self.events["step"]) % len(WORDS)
        word = [
            f"{WORDS[place]} {_taste(item)}" for place, item in zip(places, self.events["item"], strict=True)
        ]
        rows.assign(query=word)[self.asked].to_csv(folder / "queries.csv", index=False)
        catalogue = [(f"i{item:03}", f"Title {item}", _taste(item)) for item in range(ITEMS)]
        pd.DataFrame(catalogue, columns=["item_id", "title", "kind"]).to_csv(
            folder / "items.csv", index=False
        )


def _taste(item: int) -> str:
    return ("Even", "Odd")[item % 2]


def world(seed: int = 0) -> World:
    """The honest world. Nobody has an item twice, and everybody's held-out item follows from the one before it."""
    generator, rows = np.random.default_rng(seed), []
    for user in range(USERS):
        place = int(generator.integers(0, ITEMS // 2))
        skips = np.sort(generator.choice(np.arange(1, STEPS), 4, replace=False))
        for step in range(STEPS):
            walked = place + step + int(np.searchsorted(skips, step, side="right"))
            rows.append((user, 2 * (walked % (ITEMS // 2)) + user % 2, step))
    events = pd.DataFrame(rows, columns=["user", "item", "step"])
    return World(events, events["step"].isin(ASKED).to_numpy())


# -- what must not matter ---------------------------------------------------------------------------------------


def other_items(it: World, first: int, last: int) -> World:
    """The items of these steps replaced, each by one of the other taste."""
    rows = it.rows(first, last)
    return it.with_items(rows, (it.events["item"].to_numpy()[rows] + 17 + 2 * (rows % 5)) % ITEMS)


def other_test_targets(it: World) -> World:
    return other_items(it, TEST_FROM, STEPS)


def shuffled_test_events(it: World) -> World:
    """Each user's test events in another order: every one at the moment of another."""
    rows = it.rows(TEST_FROM, STEPS)
    items = it.events["item"].to_numpy()[rows].reshape(USERS, -1)
    return it.with_items(rows, np.roll(items, 1, axis=1).reshape(-1))


def deleted_test_events(it: World) -> World:
    """No test event but of every fourth user, from the second on: events of all others move up in the file."""
    rows = it.rows(TEST_FROM, STEPS)
    return it.without(rows[it.events["user"].to_numpy()[rows] % 4 != 1])


def other_validation_targets(it: World) -> World:
    return other_items(it, VALIDATION_FROM, TEST_FROM)


def other_stage_2_targets(it: World) -> World:
    return other_items(it, PERSONALIZE_FROM, VALIDATION_FROM)


Change = Callable[[World], World]
TEST_CHANGES: dict[str, Change] = {
    "other test targets": other_test_targets,
    "shuffled test events": shuffled_test_events,
    "deleted test events": deleted_test_events,
}
CHANGES: dict[str, Change] = TEST_CHANGES | {
    "other validation targets": other_validation_targets,
    "other Stage 2 targets": other_stage_2_targets,
}


# -- a run over it ----------------------------------------------------------------------------------------------

METHODS = [
    {"key": "no_context_continued", "learning_rates": [1e-4]},
    {"key": "static_prefix", "bottleneck": 8},
    {"key": "e2p", "bottleneck": 8},
    "prompt_context",
    "rag",
    {"key": "tap_per", "scorer_hidden": 8, "projection_hidden": 8, "length": 2},
    {"key": "p2p", "encoder": "backbone", "hidden": 8, "position": 4, "profile_tokens": 32},
]
CUTS = {
    "cutoff_validation_unix_s": START + STEP * VALIDATION_FROM,
    "cutoff_test_unix_s": START + STEP * TEST_FROM,
}


# A quarter of the users held out; told apart by their taste alone, so that another item of it changes no group
USER_SPLIT = UserSplitConfig(random=0.25, clusters=2, profile_values=1, profile_titles=0)


def vectors_of_tastes(texts: Iterable[str], *_: Any, **__: Any) -> np.ndarray:
    """In place of a text encoder: [n, 2], by the taste that a profile names."""
    return np.array([(1.0, 0.0) if text.startswith("Even") else (0.0, 1.0) for text in texts], np.float32)


def other_events_of(it: World, users: Iterable[int]) -> World:
    """All events of these users before the test replaced by others of the same taste."""
    rows = it.rows(0, TEST_FROM)
    rows = rows[np.isin(it.events["user"].to_numpy()[rows], list(users))]
    return it.with_items(rows, (it.events["item"].to_numpy()[rows] + 14) % ITEMS)


def config_of(folder: Path, choices: bool = True) -> RunConfig:
    """Every stage that learns, over the files of `folder`. Without `choices` validation has nothing to choose: one rate,
    one half-life, one temperature, one validation after the last step.
    """
    lasting = {"validate_every": 10} if choices else {"validate_every": 10_000}
    return RunConfig.model_validate(
        {
            "prepare": {
                "source": "files",
                **{
                    name: str(folder / f"{file}.csv")
                    for name, file in {"interactions": "events", "items": "items", "queries": "queries"}.items()
                },
                "held_out_queries": 0.3,
                "split": {"kind": "global_time", "personalize_fraction": 5 / 18, **CUTS},
            },
            "embed": {
                "lightgcn": {
                    "dim": 8, "epochs": 8, "batch": 256, "negatives": 16, "device": "cpu",
                    "validate_every_epochs": 1 if choices else 10_000,
                },
                "half_lives": (None, 20, 5, 2, 1, 0.5) if choices else (5,),
                "user_half_lives": (None, 20, 5, 2, 1, 0.5) if choices else (5,),
                "item_knn": {} if choices else {"half_lives": [5], "shrinks": [5]},
                "leak_margin": 10.0,  # where Stage 2's targets are replaced they are hard to find, and validation's not
                "text_encoder": None,
                "users_from": "lightgcn" if choices else "sasrec",
                "sasrec": {
                    "dim": 8, "layers": 1, "heads": 1, "steps": 40, "batch": 16, "warmup": 5, "device": "cpu",
                    "learning_rate": 1e-2, **lasting,
                },
            },
            "tokenize": {"quantizer": "rqvae", "size": 8, "rqvae": {"steps": 30}},
            "adapt": {
                "backbone": {"name": "tiny-random", "device": "cpu", "layers": 1},
                "prompts": {"recent_items": 2},
                "steps": 30, "batch": 8, "window_items": 6, "warmup": 5, "words_batch": 4, "title_batch": 2,
                "profile_share": 0.5, "query_share": 0.3, "records_share": 0.3, "asked_queries": 5, **lasting,
            },
            "personalize": {
                "steps": 20, "pilot_steps": 2, "batch": 8, "warmup": 2, "patience": 0,
                "learning_rates": [1e-3, 1e-2] if choices else [1e-2],
                "methods": METHODS, **lasting,
            },
            "combine": {
                "generators": ["e2p"],
                "experts": ["popularity", "item_knn", "embedding_retrieval", "sasrec"],
            },
            "evaluate": {"temperature_grid": [0.25, 0.5, 0.7, 1.0, 1.4, 2.0] if choices else [1.0]},
        }
    )  # fmt: skip


def run_world(
    it: World, folder: Path, choices: bool = True, user_split: bool = False
) -> tuple[RunConfig, Run]:
    """The world as files in `folder`, and the stages of a run over them in `folder`/run."""
    it.write(folder)
    config, run = config_of(folder, choices), Run.create(folder / "run")
    if user_split:
        split = config.prepare.model_copy(update={"user_split": USER_SPLIT})
        config = config.model_copy(update={"prepare": split})
    for stage in ("prepare", *STAGES):
        run_stage(stage, config, run)
    return config, run


def run_again(config: RunConfig, run: Run, stage: str, folder: Path) -> Run:
    """A copy of a run up to a stage, with that stage made again."""
    before = ("prepare", *STAGES)[: ("prepare", *STAGES).index(stage)]
    for name in before:
        shutil.copytree(run.path / name, folder / name)
    copy = Run.create(folder)
    run_stage(stage, config, copy)
    return copy


# -- what a run has learned, by name ------------------------------------------------------------------------------

Learned = dict[str, Any]


def learned(run: Run) -> Learned:
    """Each artifact of `STAGES` by `stage/name`: its hash, or of JSON every leaf by `stage/name:key.key`."""
    found: Learned = {}
    for stage in STAGES:
        for name, digest in (run.record(stage) or {"artifacts": {}})["artifacts"].items():
            if name.endswith(".json"):
                text = (run.path / stage / name).read_text(encoding="utf-8")
                found |= _leaves(f"{stage}/{name}:", json.loads(text))
            else:
                found[f"{stage}/{name}"] = digest
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
    return {f"scores of {key}": np.asarray(methods.build(key).scores(asked)).tolist() for key in keys}  # type: ignore[attr-defined]


def earlier_events(config: RunConfig, run: Run) -> Learned:
    """The events before the test's cut, and their roles."""
    data = Methods(run, config).dataset
    early = data.times < START + STEP * TEST_FROM
    columns = (data.users, data.items, data.times, data.roles)
    return {"earlier events": [column[early].tolist() for column in columns]}


def chosen(config: RunConfig, run: Run) -> Learned:
    """The temperatures that validation chose for `evaluate`, by row."""
    methods = Methods(run, config)
    data = methods.dataset
    events = data.instances(TEST)
    asked = Question(data.requests(events, data.exclude_seen), data.items[events], data.users[events])
    rows = table_rows(methods, asked)
    found: Learned = {f"temperature of {row.name}": row.temperature for row in rows}
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
            found[f"scores of {key}"] = np.asarray(methods.build(key).scores(asked)).tolist()  # type: ignore[attr-defined]
        except ValueError as error:  # a method may refuse a history that reaches its own moment
            found[f"scores of {key}"] = f"refused: {error}"
    return found


def window_heads(config: RunConfig, run: Run, changed: bool) -> Learned:
    """What Stage 1's windows of one event show before it, with a profile and with records; `changed`: of data in which
    these events and all later ones have other items.
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
    r"adapt/adapt\.json:(validation_expected_hit_rate@30|queries\..*)",  # queries are asked of validation's users
    r"personalize/personalize\.json:methods\..*validation_expected_hit_rate@30",
    r"combine/combine\.json:products\..*",  # weights are fitted to validation targets
)
# What learns Stage 2's targets: the refit for retrieval, SASRec's retrieval model, item-kNN and counts, and Stage 2
OF_STAGE_2 = (
    r"embed/(retrieval|sasrec_retrieval)\.safetensors|embed/curves\.json:(LightGCN|SASRec) for retrieval\..*",
    r"personalize/(?!records)[\w/-]+\.safetensors|personalize/curves\.json:.*",
    r"personalize/personalize\.json:(methods\..*|instances)",
    r"scores of (popularity|recency|item_knn|embedding_retrieval|sasrec)",
)
MAY_DIFFER = {"other validation targets": FIGURES, "other Stage 2 targets": FIGURES + OF_STAGE_2}


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
