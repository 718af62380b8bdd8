"""Twin tables: every row of finished runs measured in each of the ways that published figures are, side by side.

    set aside       items that the user has had are left out of the lists (targets that they have had are then not asked for), or not
    items, codes    an item counts, or any item whose codes are the target's before collisions were settled: what a paper counts that
                    scores codes
    groups          targets that no training event holds (new), people without a history (cold)
    calibration     the temperature of highest likelihood on validation, and the nats of a target there

Runs of one configuration with several seeds, and with another split (`prepare.split`: leave_last_out, global_time), make one table:
figures are means over the runs of a split ± their standard deviation. The recommenders are asked once: each figure is of the same scores. Whom a
retriever knows nothing of is answered by popularity here too, as `recommend` answers them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from evaluation.calibration import LEAST_NATS, fit_temperature
from evaluation.softmax import Scorer, SoftmaxOver
from evaluation.statistics import mean_interval, user_means
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.embeddings.embed import load_item_vectors
from recsys.progress import Progress
from recsys.seeds import sample
from semantic_ids.tokenizer import load_tokenizer
from serving.answering.methods import Methods

DEPTH = 10
CHUNK = 128  # requests scored at once
TEMPERATURES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 2.7, 3.6)
# of figures: R@10, N@10 of each way
WAYS = ("set aside", "not set aside", "by code")
LEFT_OUT = ("recency", "text_search")  # the last item had, and an answer to words alone


def analyse_twins(methods: Methods, instances: int = 4000) -> dict[str, Any]:
    """Write RUN/analyses/twins.json, and return the figures: one run's. At most `instances` of test and of validation, seeded samples."""
    data, run = methods.dataset, methods.run
    tokenizer = load_tokenizer(run)
    codes = tokenizer.quantizer.encode(tokenizer.read(load_item_vectors(run)))
    alike = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    trained = np.isin(np.arange(data.n_items), data.items[np.isin(data.roles, (FIT, PERSONALIZE))])
    events, fitted_on = (
        sample(data.instances(role), instances, 0, "twins", role) for role in (TEST, VALIDATION)
    )
    users, targets = data.users[events], data.items[events]
    groups = {
        "new items": ~trained[targets],
        "cold users": data.history_end[events] == data.offsets[users],
    }
    first, every = ~data.is_repeat[events], np.ones(len(events), bool)
    own = WAYS.index("set aside" if data.exclude_seen else "not set aside")
    rows = []
    for key in Progress(_keys(methods), desc="rows", unit="row"):
        ranks, log_p = _measured(methods, key, events, alike, (1.0,))
        fitted = fit_temperature(
            _measured(methods, key, fitted_on, alike, TEMPERATURES)[1], TEMPERATURES, data.users[fitted_on]
        )
        row: dict[str, Any] = {
            "name": methods.name(key),
            "temperature": fitted.temperature,
            "nats": -fitted.nats,
        }
        row |= {
            way: _figures(ranks[of, at], users[of]) if of.any() else None
            for (at, way), of in zip(enumerate(WAYS), (first, every, every), strict=True)
        }
        row["groups"] = {
            name: {"instances": int(of.sum())} | _figures(ranks[of, own], users[of])
            for name, of in groups.items()
            if of.any()
        }
        row["test nats, t = 1"] = float(-np.maximum(log_p[:, 0], LEAST_NATS).mean())
        rows.append(row)
    found = {
        "run": str(run.path.name),
        "split": methods.config.prepare.split.kind,
        "seed": methods.config.seed,
        "instances": len(events),
        "users": len(np.unique(users)),
        "items_that_share_codes": int(len(alike) - alike.max() - 1),
        "rows": rows,
    }
    folder = run.path / "analyses"
    folder.mkdir(exist_ok=True)
    write_text_atomically(folder / "twins.json", json.dumps(found, indent=1))
    return found


def _keys(methods: Methods) -> list[str]:
    """Rows that give every item a score."""
    return [key for key in methods.available() if key not in LEFT_OUT and _scorer(methods, key) is not None]


def _scorer(methods: Methods, key: str) -> Scorer | None:
    built = methods.scorer(key).scorer  # made once, whichever figure asks
    scores = built.scorer if isinstance(built, SoftmaxOver) else built
    return cast(Scorer, scores) if hasattr(scores, "scores") else None


def _measured(
    methods: Methods, key: str, events: np.ndarray, alike: np.ndarray, temperatures: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks [R, 3] in each of `WAYS`, from 1, ties against the target; and log p [R, T] of the targets, seen items set aside where the
    protocol does.
    """
    data, scorer = methods.dataset, cast(Scorer, _scorer(methods, key))
    popular = torch.from_numpy(np.log1p(data.item_totals.counts))
    ranks, log_p = [], []
    for start in range(0, len(events), CHUNK):
        some, rows = events[start : start + CHUNK], np.arange(len(events[start : start + CHUNK]))
        targets, asked = data.items[some], data.block(some, True)
        every = torch.from_numpy(np.array(scorer.scores(data.block(some, False)), np.float64))
        silent = ~every.any(1)  # rows of zeros: the retriever knows nothing of who asks
        every[silent] = popular
        left = every.clone()
        for row, request in zip(left, asked, strict=True):
            row[request.exclude] = -torch.inf
        own = [scores[rows, targets][:, None] for scores in (left, every)]
        kept = left if data.exclude_seen else every
        best = [scores[alike == alike[target]].max() for scores, target in zip(kept, targets, strict=True)]
        against = (left, own[0]), (every, own[1]), (kept, torch.stack(best)[:, None])
        ranks.append(torch.stack([(scores >= value).sum(1) for scores, value in against], 1).numpy())
        # popularity's own p ∝ count + 1
        at = [torch.from_numpy(np.where(silent.numpy(), 1.0, t))[:, None] for t in temperatures]
        log_p.append(torch.stack([(kept / t).log_softmax(1)[rows, targets] for t in at], 1).numpy())
    return np.concatenate(ranks), np.concatenate(log_p)


def _figures(ranks: np.ndarray, users: np.ndarray) -> dict[str, Any]:
    values = np.stack([ranks <= DEPTH, np.where(ranks <= DEPTH, 1 / np.log2(1.0 + ranks), 0.0)], 1)
    means = user_means(values, users)[1]
    recall, ndcg = means.mean(0).tolist()
    return {f"recall@{DEPTH}": recall, f"ndcg@{DEPTH}": ndcg, "ci95": mean_interval(means[:, 0])}


def together(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of several runs by split and row: each a mean, and its standard deviation where there are several."""
    splits = list(dict.fromkeys(one["split"] for one in found))
    rows = []
    for split in splits:
        of = [one for one in found if one["split"] == split]
        for name in dict.fromkeys(row["name"] for one in of for row in one["rows"]):
            same = [row for one in of for row in one["rows"] if row["name"] == name]
            row: dict[str, Any] = {"split": split, "name": name, "runs": len(same)}
            for way in WAYS:
                row[way] = tuple(
                    _spread([one[way][figure] for one in same if one[way]])
                    for figure in (f"recall@{DEPTH}", f"ndcg@{DEPTH}")
                )
            for group in ("new items", "cold users"):
                some = [one["groups"][group] for one in same if group in one["groups"]]
                row[group] = (
                    (some[0]["instances"], _spread([one[f"recall@{DEPTH}"] for one in some]))
                    if some
                    else None
                )
            row["temperature"] = float(np.mean([one["temperature"] for one in same]))
            row["nats"] = float(np.mean([one["nats"] for one in same]))
            rows.append(row)
    return rows


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    if not values:
        return float("nan"), None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def print_twins(found: Sequence[dict[str, Any]]) -> None:
    """The table of all runs, in Markdown where the output is no terminal."""
    console = Console()
    heads = [
        "row",
        *(f"R@10 / N@10, {way}" for way in WAYS),
        "new items: R@10",
        "cold users: R@10",
        "T, nats",
    ]
    for split in dict.fromkeys(one["split"] for one in found):
        of = [one for one in found if one["split"] == split]
        counts = sorted({one["instances"] for one in of})
        said = f"{split}: {len(of)} run(s), {' to '.join(f'{count:,}' for count in counts)} instances, items sharing codes before they were settled: {of[0]['items_that_share_codes']:,}"
        lines = [[row["name"], *(_pair(row[way]) for way in WAYS), _group(row["new items"]), _group(row["cold users"]),
                  f"{row['temperature']:.2f}, {row['nats']:.3f}"] for row in together(of)]  # fmt: skip
        if console.is_terminal:
            table = Table(*heads, title=said)
            for line in lines:
                table.add_row(*line)
            console.print(table)
        else:
            print(f"\n{said}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
            for line in lines:
                print(f"| {' | '.join(line)} |")


def _pair(values: Sequence[tuple[float, float | None]]) -> str:
    return " / ".join(_shown(*value) for value in values)


def _group(value: tuple[int, tuple[float, float | None]] | None) -> str:
    return "–" if value is None else f"{_shown(*value[1])} (n = {value[0]:,})"


def _shown(mean: float, deviation: float | None) -> str:
    if mean != mean:  # nothing was measured
        return "–"
    text = f"{mean:.4f}".removeprefix("0")
    return text if deviation is None else f"{text} ± {f'{deviation:.4f}'.removeprefix('0')}"
