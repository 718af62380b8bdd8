"""What a user's vector is worth by how much the prompt shows: rows with and without it, at 0, 1, 2, 5, 20, … items.

A vector says of a user what the prompt could say too, at the price of a token an item. So each row is asked with prompts of every
length: with no soft token (No Context), with the method's, and, the control, with that of another user's vector.

What compares rows must not be sharpness: at temperature 1 a flatter or a steeper distribution hits more often, whatever it knows.
So each row gets the temperature of highest likelihood on validation instances, and rows are compared there on test instances;
figures at temperature 1 stand beside. Differences are paired over users, and their p corrected over lengths (Holm).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evaluation.calibration import LEAST_NATS, fit_temperature
from evaluation.metrics import expected_hit, ndcg_at_k, pad_lists, recall_at_k
from evaluation.report.style import COLOURS, png, style
from evaluation.statistics import holm, mean_interval, paired_test, user_means
from llm.decoding.recommender import SidRecommender
from llm.decoding.scoring import log_probs_of
from llm.prompts.builder import PromptBuilder
from llm.prompts.reading import OfAnother, Reading
from llm.stage1.model import prompt_builder
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data.dataset import Dataset
from recsys.data.splits import ROLE_NAMES, TEST, VALIDATION
from recsys.embeddings.user_vectors import partners_of_other_users
from recsys.recommender import Request
from recsys.seeds import rng, sample
from serving.answering.methods import Methods

SHOWN = (0, 1, 2, 5, 20, 50)
TEMPERATURES = (0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 2.7, 3.6)
DRAWS, DEPTH = 30, 10
NONE, OWN, OTHER = "no vector", "own vector", "another's"


def analyse_context(
    methods: Methods,
    key: str,
    shown: Sequence[int] = SHOWN,
    instances: int = 3000,
    control: str | None = None,
    group: str | None = None,
) -> dict[str, Any]:
    """Write `RUN/analyses/context-KEY/` (context.json, context.png), and return the figures.

    `instances` of validation and of test at most, seeded samples. `control` is a method whose prefix is about nobody (Static
    Prefix), measured besides. `group`: test instances of users of one group of `recsys.data.user_splits` alone, such as random: held
    out from all learning; temperatures are of validation, and so of those who were not. Raises `ValueError` for a method without soft tokens of a user's vector.
    """
    reading = methods.reading(key) if key in methods.available() else None
    if reading is None or reading.personalizer is None or not reading.soft_tokens or reading.context:
        raise ValueError(
            f"{key!r} is no method of this run whose prompt has soft tokens and no words: e2p is one"
        )
    data = methods.dataset
    validation, test = _sample(data, VALIDATION, instances), _sample(data, TEST, instances, group)
    rows: list[dict[str, Any]] = []
    for count in sorted(set(shown)):
        builder = _showing(methods, count)
        ways = {NONE: Reading(methods.model, builder), OWN: replace(reading, builder=builder)}
        if control is not None:
            ways[control] = replace(methods.reading(control), builder=builder)
        of_users: dict[str, np.ndarray] = {}
        for name, way in ways.items():
            rows.append(row := _measured(name, count, way, validation, test, of_users))
            print(f"{count} items, {name}: {row['expected_hit_rate@30']:.4f}", flush=True)
        rows.append(_measured(OTHER, count, ways[OWN], validation, test, of_users, anothers=True))
        for row in rows[-len(of_users) :]:
            if row["name"] != OWN:
                hits, nats = (
                    paired_test(of_users[OWN][:, column], of_users[row["name"]][:, column])
                    for column in (0, 2)
                )
                row |= {
                    "own_minus_this": hits.difference,
                    "ci95_of_difference": hits.interval,
                    "p": hits.p_value,
                    "nats_gained": -nats.difference,
                    "p_of_nats": nats.p_value,
                }
    for name in {row["name"] for row in rows} - {OWN}:
        some = [row for row in rows if row["name"] == name]
        for row, p in zip(some, holm([row["p"] for row in some]), strict=True):
            row["p_holm"] = p
    found = {
        "method": key,
        "test_instances": len(test[0]),
        "test_users": len(np.unique(test[2])),
        "group": group,
        "validation_instances": len(validation[0]),
        "rows": rows,
        "tokens_for_the_longest": _tokens_for(rows),
    }
    folder = folder_of(methods.run.path, key, group)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / "context.json", json.dumps(found, indent=1))
    (folder / "context.png").write_bytes(picture(found))
    return found


Sample = tuple[list[Request], np.ndarray, np.ndarray]  # requests, targets, users


def _sample(data: Dataset, role: int, at_most: int, group: str | None = None) -> Sample:
    events = data.instances(role)
    if group is not None:
        events = events[data.user_groups[data.users[events]] == group]
        if not len(events):
            raise ValueError(
                f"this run has no {ROLE_NAMES[role]} instance of {group!r} users; its groups are: "
                f"{', '.join(sorted(set(data.user_groups)))} (prepare.user_split)"
            )
    events = sample(events, at_most, 0, "context length", role)
    return data.block(events, data.exclude_seen), data.items[events], data.users[events]


def _showing(methods: Methods, count: int) -> PromptBuilder:
    prompts = methods.config.adapt.prompts.model_copy(update={"recent_items": count})
    return prompt_builder(
        methods.config.adapt.model_copy(update={"prompts": prompts}), methods.model, methods.dataset
    )


def _measured(
    name: str,
    count: int,
    way: Reading,
    validation: Sample,
    test: Sample,
    of_users: dict[str, np.ndarray],
    anothers: bool = False,
) -> dict[str, Any]:
    """One row's figures; its expected hit-rates a user at its temperature are left in `of_users`."""
    log_p = log_probs_of(_told(way, validation, anothers), *validation[:2], TEMPERATURES)
    fitted = fit_temperature(log_p, TEMPERATURES, validation[2])
    asked = _told(way, test, anothers)
    log_p = log_probs_of(asked, *test[:2], (1.0, fitted.temperature))
    lists = SidRecommender(name, asked).recommend(test[0], DRAWS)
    ranked = pad_lists([one.items for one in lists], DRAWS)
    values = np.stack(
        [
            expected_hit(log_p[:, 1], DRAWS),
            expected_hit(log_p[:, 0], DRAWS),
            -np.maximum(log_p[:, 1], LEAST_NATS),
            recall_at_k(ranked, test[1], DEPTH),
            ndcg_at_k(ranked, test[1], DEPTH),
            recall_at_k(ranked, test[1], DRAWS),
        ],
        1,
    )
    means = user_means(values, test[2])[1]
    of_users[name] = means
    length = float(np.mean([len(prompt) for prompt in asked.prompts(test[0][:500])])) + asked.soft_tokens
    hit, at_1, nats, recall, ndcg, top = means.mean(0).tolist()
    return {
        "name": name,
        "shown": count,
        "tokens": length,
        "temperature": fitted.temperature,
        "expected_hit_rate@30": hit,
        "ci95": mean_interval(means[:, 0]),
        "expected_hit_rate@30_at_1": at_1,
        "nats": nats,
        f"recall@{DEPTH}": recall,
        f"ndcg@{DEPTH}": ndcg,
        f"hit_rate@{DRAWS}_of_the_list": top,
    }


def _told(way: Reading, sample: Sample, anothers: bool) -> Reading:
    if not anothers:
        return way
    assert way.personalizer is not None
    partner = partners_of_other_users(sample[2], rng(0, "another user's vector"))
    return replace(way, personalizer=OfAnother(way.personalizer, sample[0], partner))


def _tokens_for(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The shortest prompt with the vector that is as good as the longest without one; None where there is none."""
    longest = max((row for row in rows if row["name"] == NONE), key=lambda row: row["shown"])
    good = [
        row
        for row in rows
        if row["name"] == OWN and row["expected_hit_rate@30"] >= longest["expected_hit_rate@30"]
    ]
    if not good:
        return None
    best = min(good, key=lambda row: row["tokens"])
    return {"tokens": best["tokens"], "shown": best["shown"], "tokens_without": longest["tokens"]}


def picture(found: dict[str, Any]) -> bytes:
    """Expected hit-rate@30 by items shown, one line a row with 95 % intervals over users: PNG bytes."""
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    shown = sorted({row["shown"] for row in found["rows"]})
    for colour, name in zip(COLOURS, dict.fromkeys(row["name"] for row in found["rows"]), strict=False):
        rows = [row for row in found["rows"] if row["name"] == name]
        places = [shown.index(row["shown"]) for row in rows]
        values = np.array([row["expected_hit_rate@30"] for row in rows])
        low, high = np.array([row["ci95"] or (value,) * 2 for row, value in zip(rows, values, strict=True)]).T
        axis.errorbar(
            places, values, [values - low, high - values], color=colour, marker="o", capsize=3, label=name
        )
    axis.set_xticks(range(len(shown)), [str(count) for count in shown])
    axis.set_xlabel("items that the prompt shows", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)
    style(axis, "Expected hit-rate@30 at matched calibration, 95 % intervals over users")
    return png(figure)


def print_context(found: dict[str, Any], console: Console | None = None) -> None:
    """The table, in 80 columns."""
    title = f"{found['method']} by items shown, {found['test_users']} users; gain: own vector minus this, p by Holm"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("items", "row", "tokens", "hit@30 ± 95 %", "R@10", "gain", "p", "nats"):
        table.add_column(column, justify="left" if column == "row" else "right", no_wrap=True)
    for row in found["rows"]:
        interval, difference = row["ci95"], row.get("own_minus_this")
        within = "" if interval is None else f" ± {_short((interval[1] - interval[0]) / 2)}"
        table.add_row(
            str(row["shown"]),
            row["name"],
            f"{row['tokens']:.1f}",
            f"{_short(row['expected_hit_rate@30'])}{within}",
            _short(row["recall@10"]),
            "" if difference is None else f"{difference:+.4f}".replace("0.", "."),
            "" if row.get("p_holm") is None else f"{row['p_holm']:.0e}" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}",
            f"{row['nats']:.2f}",
        )  # fmt: skip
    (console or Console(width=80)).print(table)


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def folder_of(run: Path, key: str, group: str | None = None) -> Path:
    """Where `analyse_context` writes."""
    return run / "analyses" / (f"context-{key}" if group is None else f"context-{key}-{group}")
