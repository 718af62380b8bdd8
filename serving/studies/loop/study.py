"""`prelude analyse loop RUN`: whether exposure narrows when people choose from the lists and the run learns from it; for whom, and what helps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.audit import groups
from evaluation.audit.choice import Choice, Utilities
from evaluation.audit.loop import Arm, Round, Setting, differences, over_seeds, simulate
from evaluation.audit.loop_pictures import groups_of_arms, rounds_of_arms
from evaluation.audit.loop_tables import print_loop, sentences
from evaluation.audit.utility import fit_utilities
from evaluation.report.style import saved
from llm.decoding.recommender import SidRecommender
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data.caps import Caps
from recsys.data.splits import TEST, VALIDATION
from recsys.recommender import Request
from recsys.seeds import sample
from serving.answering.methods import Methods
from serving.bench.worlds.planted import World
from serving.studies.audit_run import kinds_column, population
from serving.studies.loop.arms import CountedArm, FixedArm, GeneratorArm, RandomArm, RetrievalArm

CAP = 3  # items of a list that share a kind, as a lever


@dataclass(frozen=True)
class Plan:
    """How large a loop is."""

    people: int = 300
    rounds: int = 10
    seeds: int = 5
    n: int = 10
    choices: int = 3
    position: float = 1.0


@dataclass(frozen=True)
class PlantedUtilities:
    """log p(next item | person, moment, last item) of a made world, in the run's integers."""

    world: World
    user_ids: np.ndarray
    items: np.ndarray  # [N] the world's integer of each item
    said: str = "utility: the made world's own log-probability of what a person has next"

    @classmethod
    def of(cls, folder: Path, methods: Methods) -> PlantedUtilities:
        data = methods.dataset
        numbers = np.array([int(str(one)[1:]) for one in data.catalogue.item_ids])
        return cls(World.open(folder), data.user_ids, numbers)

    def of_all(self, requests: Sequence[Request]) -> np.ndarray:
        rows = []
        for request in requests:
            assert request.user is not None
            last = int(self.items[request.history[-1]]) if len(request.history) else None
            user = int(str(self.user_ids[request.user])[1:])
            rows.append(self.world.next_item(user, request.time, last)[self.items])
        return np.log(np.maximum(rows, 1e-300))


def analyse_loop(
    methods: Methods, key: str, plan: Plan, world: Path | None = None, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write `RUN/analyses/loop/` (loop.json, pictures), print, and return the figures.

    `key` is the generator that goes on training, `world` the folder of the made world that the run's events are of (else utilities are
    fitted, `evaluation.audit.utility`); `names` are those of the arms, None: all. A simulation that is done is kept, so a call that was
    killed goes on. Raises `ValueError` for a method that does not generate, and for an arm that there is not.
    """
    folder = methods.run.path / "analyses" / "loop"
    arms = arms_of(methods, key)
    for name in names or ():
        if name not in {arm.name for arm in arms}:
            raise ValueError(f"there is no arm {name!r}; there are {', '.join(arm.name for arm in arms)}")
    arms = [arm for arm in arms if names is None or arm.name in names]
    requests, setting, figures = _setting(methods, plan, world)
    trained = [
        record["fingerprint"] for stage in ("personalize", "combine") if (record := methods.run.record(stage))
    ]
    seeds = {arm.name: [_simulated(folder, arm, requests, setting, seed, plan, trained) for seed in range(plan.seeds)]
             for arm in arms}  # fmt: skip
    learned = next((arm.name for arm in arms if isinstance(arm, GeneratorArm)), None)
    found: dict[str, Any] = {
        "plan": plan.__dict__,
        "people": len(requests),
        "choice": f"p ∝ log2(1 + place)^−{plan.position:g} · exp(utility), {plan.choices} choices of {plan.n}; "
        f"{setting.choice.utilities.said}",
        "utility": figures,
        "arms": {name: over_seeds(some) for name, some in seeds.items()},
        "against": learned,
        "levers": {name: differences(some, seeds[learned]) for name, some in seeds.items() if learned not in (None, name)},
    }  # fmt: skip
    found["sentences"] = sentences(found)
    write_text_atomically(folder / "loop.json", json.dumps(found, indent=1))
    saved(rounds_of_arms(found), folder, "loop")
    for grouping in next(iter(found["arms"].values()))["groups"]:
        saved(groups_of_arms(found, grouping), folder, f"loop-{grouping}")
    print_loop(found)
    return found


def arms_of(methods: Methods, key: str) -> list[Arm]:
    """Random, what is counted and trained again, the generator with each lever alone, and as it is without learning."""
    there = methods.available()
    if key not in there:
        raise ValueError(f"this run has no method {key!r}; it has {', '.join(there)}")
    if not isinstance(methods.build(key), SidRecommender):
        raise ValueError(f"{key!r} is no generator; the loop goes on training one, such as e2p or no_context")
    name = methods.name(key)
    arms: list[Arm] = [RandomArm(methods)]
    arms += [CountedArm(methods, one) for one in ("popularity", "item_knn") if one in there]
    if methods.run.read_json("embed", "embed.json").get("items") == "lightgcn":
        arms.append(RetrievalArm(methods))
    arms.append(GeneratorArm(methods, key, name))
    arms += [GeneratorArm(methods, key, f"{name}, drawn at t = {at:g}", temperature=at) for at in (0.5, 1.0)]
    column = kinds_column(methods.dataset, None)
    if column is not None:
        caps = Caps(methods.dataset.catalogue, {column: CAP})
        arms.append(GeneratorArm(methods, key, f"{name}, at most {CAP} of a kind", caps=caps))
    if methods.reading(key).soft_tokens:
        arms.append(GeneratorArm(methods, key, f"{name}, strength 0", strength=0.0))
    arms.append(FixedArm(methods, key, f"{name}, not trained on"))
    product = f"{key}_product"
    if product in there:
        arms.append(FixedArm(methods, product, f"{methods.name(product)}, not trained on"))
    return arms


def _setting(
    methods: Methods, plan: Plan, world: Path | None
) -> tuple[list[Request], Setting, dict[str, float]]:
    """A seeded sample of people as of the end of the data, and what the simulation knows of them."""
    data = methods.dataset
    users = sample(np.unique(data.users[data.instances(TEST)]), plan.people, 0, "loop", "people")
    requests = []
    for user in users.tolist():
        history, times = data.before(user, data.end)
        exclude = data.not_again(user, data.end, history, data.exclude_seen)
        requests.append(Request(f"loop{user}", user, data.end, history, times, exclude=exclude))
    nothing = np.zeros(len(users), np.int64)  # there is no held-out item: people choose
    known = population(methods, requests, nothing, users, kinds_column(data, None))
    figures: dict[str, float] = {}
    utilities: Utilities
    if world is not None:
        utilities = PlantedUtilities.of(world, methods)
    else:
        held_out = np.isin(data.roles, (VALIDATION, TEST))
        fitted = fit_utilities(data.users, data.items, data.n_users, data.n_items, held_out)
        utilities, figures = fitted, fitted.figures
    labels = groups.by_popularity(known.counts)
    choice = Choice(utilities, plan.position, plan.choices)
    tail = np.isin(labels, ("tail", "new"))
    return requests, Setting(known, choice, tail, plan.rounds, plan.n, data.exclude_seen), figures


def _simulated(
    folder: Path,
    arm: Arm,
    requests: list[Request],
    setting: Setting,
    seed: int,
    plan: Plan,
    trained: list[str],
) -> list[Round]:
    """One simulation, or what an earlier call of the same plan on the same training left of it."""
    told = json.dumps(
        [arm.name, plan.__dict__ | {"seeds": 0}, setting.choice.utilities.said, len(requests), trained]
    )
    name = f"{hashlib.sha256(told.encode()).hexdigest()[:16]}-{seed}.json"
    path = folder / "simulations" / name
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["rounds"]
    found = simulate(arm, requests, setting, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps({"of": told, "rounds": found}))
    print(f"loop: {arm.name}, seed {seed}: Gini {found[0]['gini']:.3f} → {found[-1]['gini']:.3f}", flush=True)
    return found
