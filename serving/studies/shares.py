"""What each factor of a product of experts brings to it: its share of what sets items apart, and what is lost without it.

share       cov_p(w_k · s_k, L) / var_p(L) over the items of a request, under the product's own distribution p, with L = Σ_k w_k · s_k: how much of
            what raises an item above another is the factor's; the shares of a request sum to 1, and a factor that speaks against the others
            has one below 0
without     nats a target, expected hit-rate of 30 draws and R@10 of the others alone, their weights fitted anew on validation: a factor
            whose part the others can take over loses nothing

Weights are those of the highest likelihood on validation (`evaluation.product`), fitted here on its instances alone; figures are of test, of
those instances of which an expert knows anything: the others one factor answers alone.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evaluation.product import Differences
from evaluation.report.style import COLOURS, png, style
from evaluation.softmax import Scorer
from evaluation.statistics import mean_interval, user_means
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data.splits import TEST, VALIDATION
from recsys.progress import Progress
from recsys.seeds import sample
from serving.answering.methods import Methods
from serving.answering.products import experts_of

DEPTH, DRAWS = 10, 30
CHUNK = 128  # requests scored at once


def analyse_shares(methods: Methods, instances: int = 2000) -> dict[str, Any]:
    """Write RUN/analyses/shares.json and shares.png, and return the figures: each product of the run, of at most `instances` of validation
    and of test (seeded samples). Raises `ValueError` for a run without the stage `combine`.
    """
    settings, run, data = methods.config.combine, methods.run, methods.dataset
    if settings is None or not (run.path / "combine" / "combine.json").exists():
        raise ValueError(f"{run.path}: no products of experts here; the stage combine makes them")
    report = run.read_json("combine", "combine.json")
    if "approximation" in report:
        raise ValueError(f"{run.path}: shares are of exact products; this run's are approximate")
    asked_once = experts_of(methods, settings, report["text_half_life_items"])
    experts = {_name(methods, key): one for key, one in zip(settings.experts, asked_once, strict=True)}
    generators = {methods.name(key): methods.scorer(key).scorer for key in settings.generators}
    fitted_on, events = (
        sample(data.instances(role), instances, 0, "shares", role) for role in (VALIDATION, TEST)
    )
    factors: dict[str, Scorer] = generators | experts
    products = [[*experts], *([name, *experts] for name in generators)]
    sets = list(dict.fromkeys(tuple(some) for names in products for some in [names, *_each_left_out(names)]))
    with tempfile.TemporaryDirectory() as differences:
        asked = Differences(
            Path(differences), data.block(fitted_on, data.exclude_seen), data.items[fitted_on], data.n_items
        )
        paths = {
            name: asked.add(scorer)
            for name, scorer in Progress(list(factors.items()), desc="factors", unit="factor")
        }
        weights = {
            names: asked.fit([paths[name] for name in names]).values
            for names in Progress(sets, desc="weights", unit="product")
        }
    whole = {tuple(names) for names in products}
    measured = {names: _Measured() for names in sets}
    # as in `serving.answering.products`; popularity says the same of everybody
    asked_of = [_name(methods, key) for key in settings.experts if key != "popularity"]
    users = []
    for start in Progress(range(0, len(events), CHUNK), desc="test", unit="block"):
        some = events[start : start + CHUNK]
        requests, targets = data.block(some, data.exclude_seen), torch.from_numpy(data.items[some])
        scores = {
            name: torch.from_numpy(np.array(scorer.scores(requests), np.float64))
            for name, scorer in factors.items()
        }
        known = torch.stack([scores[name].any(1) for name in asked_of or factors]).any(0)
        users.append(data.users[some][known.numpy()])
        out = torch.zeros(len(some), data.n_items, dtype=torch.bool)
        for row, request in zip(out, requests, strict=True):
            row[:] = torch.from_numpy(~request.available(np.arange(data.n_items)))
        for names, one in measured.items():
            of_these = [scores[name][known] for name in names]
            one.add(of_these, weights[names], out[known], targets[known])
            if names in whole:
                one.shares.append(shares(of_these, weights[names], out[known]))
    people = np.concatenate(users)
    found = {
        "run": run.path.name,
        "validation_instances": len(fitted_on),
        "instances": len(people),
        "users": len(np.unique(people)),
        "products": [_product(names, generators, weights, measured, people) for names in products],
    }
    folder = run.path / "analyses"
    folder.mkdir(exist_ok=True)
    write_text_atomically(folder / "shares.json", json.dumps(found, indent=1))
    (folder / "shares.png").write_bytes(picture(found))
    return found


def _name(methods: Methods, key: str) -> str:
    return "Texts" if key == "text" else methods.name(key)


def _each_left_out(names: Sequence[str]) -> list[list[str]]:
    return [[other for other in names if other != name] for name in names] if len(names) > 1 else []


def shares(factors: Sequence[torch.Tensor], weights: Sequence[float], out: torch.Tensor) -> torch.Tensor:
    """Each factor's share [R, K] of the variance of L = Σ_k w_k · s_k under softmax(L), of scores [R, N] each; `out` [R, N]: not available."""
    parts = [weight * factor.masked_fill(out, 0.0) for weight, factor in zip(weights, factors, strict=True)]
    total = torch.stack(parts).sum(0)
    p = total.masked_fill(out, -torch.inf).softmax(1)
    apart = total - (p * total).sum(1, keepdim=True)
    with_it = torch.stack([(p * part * apart).sum(1) for part in parts], 1)
    return with_it / with_it.sum(1, keepdim=True)


class _Measured:
    """Of one set of factors: log p and rank of each target, and of a whole product the shares."""

    def __init__(self) -> None:
        self.shares: list[torch.Tensor] = []
        self.log_p: list[torch.Tensor] = []
        self.ranks: list[torch.Tensor] = []

    def add(
        self,
        factors: Sequence[torch.Tensor],
        weights: Sequence[float],
        out: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        total = torch.stack([weight * factor for weight, factor in zip(weights, factors, strict=True)]).sum(0)
        total = total.masked_fill(out, -torch.inf)
        own = total.gather(1, targets[:, None])
        self.log_p.append((own - total.logsumexp(1, keepdim=True))[:, 0])
        self.ranks.append((total >= own).sum(1))

    def values(self) -> np.ndarray:
        """Nats, expected hit-rate of 30 draws and hit in the first ten, of each target [R, 3]."""
        log_p, ranks = torch.cat(self.log_p), torch.cat(self.ranks)
        return torch.stack([log_p, 1 - (1 - log_p.exp()) ** DRAWS, (ranks <= DEPTH).double()], 1).numpy()


def _product(
    names: Sequence[str],
    generators: dict[str, Scorer],
    weights: dict[tuple[str, ...], list[float]],
    measured: dict[tuple[str, ...], _Measured],
    users: np.ndarray,
) -> dict[str, Any]:
    whole = measured[tuple(names)]
    share = user_means(torch.cat(whole.shares).numpy(), users)[1]
    own = user_means(whole.values(), users)[1]
    rows = []
    for at, name in enumerate(names):
        row: dict[str, Any] = {
            "factor": name,
            "weight": weights[tuple(names)][at],
            "share": float(share[:, at].mean()),
            "share_ci95": mean_interval(share[:, at]),
        }
        for others in _each_left_out(names)[at : at + 1]:
            lost = own - user_means(measured[tuple(others)].values(), users)[1]
            for column, figure in enumerate(("nats", f"expected_hit_rate@{DRAWS}", f"recall@{DEPTH}")):
                row[f"{figure}_lost"] = float(lost[:, column].mean())
                row[f"{figure}_lost_ci95"] = mean_interval(lost[:, column])
        rows.append(row)
    nats, expected, recall = own.mean(0).tolist()
    return {
        "name": f"{names[0]} × experts" if names[0] in generators else "Experts alone",
        "nats": -nats,
        f"expected_hit_rate@{DRAWS}": expected,
        f"recall@{DEPTH}": recall,
        "factors": rows,
    }


def picture(found: dict[str, Any]) -> bytes:
    """PNG: the shares of each product's factors side by side, and the nats that are lost without each, with 95 % intervals."""
    products = found["products"]
    names = list(dict.fromkeys(row["factor"] for one in products for row in one["factors"]))
    colours = dict(zip(names, COLOURS * 3, strict=False))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.6, 1.1 + 0.55 * len(products)), sharey=True, layout="constrained"
    )
    style(left, "share of what sets items apart")
    style(right, "nats a target lost without it")
    for place, one in enumerate(products):
        at = 0.0
        for step, row in enumerate(one["factors"]):
            left.barh(place, row["share"], 0.6, at, color=colours[row["factor"]])
            if row["share"] > 0.06:
                left.text(
                    at + row["share"] / 2, place, f"{row['share']:.0%}", ha="center", va="center", fontsize=8,
                    color="white",
                )  # fmt: skip
            at += row["share"]
            if row.get("nats_lost") is not None:
                interval = row["nats_lost_ci95"] or (row["nats_lost"], row["nats_lost"])
                y = place + (step - (len(one["factors"]) - 1) / 2) * 0.13
                right.plot(interval, (y, y), color=colours[row["factor"]], lw=1.5)
                right.plot(row["nats_lost"], y, "o", color=colours[row["factor"]], ms=4)
    left.set_yticks(range(len(products)), [one["name"] for one in products])
    left.invert_yaxis()
    left.axvline(0, color="#999999", lw=0.6)
    right.axvline(0, color="#999999", lw=0.6)
    handles = [plt.Line2D([], [], marker="s", ls="", color=colours[name]) for name in names]
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(len(names), 6), frameon=False, fontsize=8
    )
    return png(figure)


def print_shares(found: dict[str, Any]) -> None:
    """The table, in 80 columns."""
    title = f"What each factor brings; {found['instances']:,} test instances, {found['users']:,} users"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ("product, factor", "weight", "share", "nats lost without", "R@10 lost without")
    for column in columns:
        table.add_column(column, justify="right" if column in columns[1:3] else "left", no_wrap=True)
    for one in found["products"]:
        table.add_row(one["name"], "", "", f"{one['nats']:.3f} nats", f"{one[f'recall@{DEPTH}']:.4f}")
        for row in one["factors"]:
            lost = _lost(row, "nats", 3), _lost(row, f"recall@{DEPTH}", 4)
            table.add_row(f"  {row['factor']}", f"{row['weight']:.2f}", f"{row['share']:.0%}", *lost)
    Console(width=80).print(table)


def _lost(row: dict[str, Any], figure: str, digits: int) -> str:
    value, interval = row.get(f"{figure}_lost"), row.get(f"{figure}_lost_ci95")
    if value is None:
        return "–"
    within = "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.{digits}f}"
    return re.sub(r"(?<!\d)0\.", ".", f"{value:+.{digits}f}{within}")
