"""Stages `online` and `drift`: experiments over a stream of later events, their statistics and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.report.curves import bars, with_intervals
from evaluation.report.terminal import wide
from evaluation.statistics import mean_interval, paired_test, user_means
from llm.methods.personalize import load_method
from llm.methods.stage2 import World
from llm.methods.tap_per import TapPerConfig
from llm.streams.drift import NOBODY, STALE, Drifted, drift
from llm.streams.online import STATIC, Experiment, Measured
from recsys import terminal
from recsys.run import Run
from recsys.terminal import shown
from serving.config.run import RunConfig

NEEDS = ("prepare", "embed", "tokenize", "adapt", "personalize")
RATE = "expected hit-rate@30, mean over users"
NOTE = (
    "chunks are of each user's own events: what is shared learns from other users' later days too; every "
    "variant's prompt shows the recent items"
)


def online(config: RunConfig, run: Run) -> dict[str, Any]:
    """Run the stage (TAP-PER, 4.6): `online.json` and two pictures in RUN/online.

    A killed one resumes; returns its report.
    """
    method = config.personalize.method(config.online.method)
    if not isinstance(method, TapPerConfig) or not method.user_state:
        raise ValueError(
            f"online.method is {method.key!r}; the experiment needs TAP-PER with a user state (P_u)"
        )
    stage = run.stage("online", config.online, needs=NEEDS)
    if not stage.is_done():
        with stage.writing() as folder:
            experiment = Experiment(
                World.load(run, config.adapt, config.personalize), config.online, method, stage.checkpoint
            )
            measured = experiment.run()
            report: dict[str, Any] = {
                "method": method.name,
                "events": {
                    "bootstrap": int((experiment.part == 0).sum()),
                    "stream": int((experiment.part > 0).sum()),
                },
                "figure": RATE,
                "note": NOTE,
                "rows": over_chunks(measured, STATIC),
                "costs": experiment.costs,
            }
            _write(folder, "online.json", report)
            title = f"{method.name}: each chunk predicted before it is absorbed; 95 % intervals over users"
            (folder / "hit_rate.png").write_bytes(
                with_intervals(_points(report["rows"]), title, "chunk of the stream", RATE)
            )
            (folder / "seconds.png").write_bytes(_seconds_picture(experiment.costs))
    return run.read_json("online", "online.json")


def measure_drift(config: RunConfig, run: Run) -> dict[str, Any]:
    """Run stage `drift`: `drift.json` and two pictures in RUN/drift.

    A killed one resumes; returns its report.
    """
    stage = run.stage("drift", config.drift, needs=NEEDS, outside={"embed": config.embed.model_dump_json()})
    if not stage.is_done():
        with stage.writing() as folder:
            world = World.load(run, config.adapt, config.personalize)
            method = config.personalize.method(config.drift.method)
            reading = load_method(world, method, config.personalize.seeds[0])
            measured = drift(world, config.drift, config.embed, reading, stage.checkpoint)
            rows = over_chunks(measured, STALE)
            _with_drift(rows, measured)
            report = {"method": method.name, "figure": RATE, "space": world.users.space, "rows": rows}
            _write(folder, "drift.json", report)
            series = _points(rows)
            (folder / "by_chunk.png").write_bytes(
                with_intervals(
                    series,
                    "φ frozen, embeddings go on; 95 % intervals over users",
                    "chunk of the held-out stream",
                    RATE,
                )
            )
            (folder / "by_drift.png").write_bytes(
                with_intervals(
                    {name: some for name, some in _points(rows, "drift").items() if name != NOBODY},
                    "quality against drift: one point a chunk",
                    "mean cosine distance to the vector as of the end of training",
                    RATE,
                    joined=False,
                )
            )
    return run.read_json("drift", "drift.json")


def over_chunks(measured: Sequence[Measured | Drifted], reference: str) -> list[dict[str, Any]]:
    """One row a chunk and variant, and one a variant over the whole stream, each against the reference.

    The whole stream is the chunk "all". Instances are averaged by user first; intervals and paired t-tests
    are over users. The tests of "all" are the ones to read; those of single chunks are many, and not
    corrected.
    """
    found: dict[tuple[str, Any], tuple[np.ndarray, np.ndarray]] = {
        (_name(one), one.chunk): (one.rates, one.users) for one in measured
    }
    chunks = sorted({chunk for _, chunk in found})
    names = list(dict.fromkeys(name for name, _ in found))
    for name in names:
        rates, users = zip(*(found[name, chunk] for chunk in chunks), strict=True)
        found[name, "all"] = np.concatenate(rates), np.concatenate(users)
    return [
        _row(name, chunk, found, reference)
        for chunk in (*chunks, "all")
        for name in names
        if len(found[name, chunk][0])
    ]


def _row(name: str, chunk: Any, found: dict, reference: str) -> dict[str, Any]:
    mine, theirs = (user_means(*found[one, chunk])[1] for one in (name, reference))
    test = paired_test(mine, theirs)
    return {
        "variant": name,
        "chunk": chunk,
        "instances": len(found[name, chunk][0]),
        "n_users": len(mine),
        "expected_hit_rate@30": float(mine.mean()),
        "ci95": mean_interval(mine),
        f"minus_{reference}": test.difference,
        "difference_ci95": test.interval,
        "p_value": None if name == reference else test.p_value,
    }


def _name(one: Measured | Drifted) -> str:
    return one.variant if isinstance(one, Measured) else one.condition


def _with_drift(rows: list[dict[str, Any]], measured: Sequence[Drifted]) -> None:
    """Add each condition's mean cosine distance to the stale vector, over users."""
    for row in rows:
        some = [
            one for one in measured if one.condition == row["variant"] and row["chunk"] in (one.chunk, "all")
        ]
        distances, users = (
            np.concatenate([getattr(one, part) for one in some]) for part in ("distances", "users")
        )
        row["drift"] = None if np.isnan(distances).any() else float(user_means(distances, users)[1].mean())


def _points(rows: Sequence[dict[str, Any]], x: str = "chunk") -> dict[str, list]:
    series: dict[str, list] = {}
    for row in rows:
        if row["chunk"] != "all" and row[x] is not None:
            point = (float(row[x]), row["expected_hit_rate@30"], row["ci95"])
            series.setdefault(row["variant"], []).append(point)
    return series


def _seconds_picture(costs: Sequence[dict[str, Any]]) -> bytes:
    series: dict[str, list] = {}
    for cost in costs:
        series.setdefault(cost["variant"], []).append(
            (f"chunk {cost['chunk']}" if cost["chunk"] else "bootstrap", cost["seconds"])
        )
    return bars(series, "what absorbing a chunk costs", "seconds of training")


def _write(folder: Path, name: str, report: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(report, indent=1), encoding="utf-8")


def print_over_time(report: dict[str, Any], console: Console) -> None:
    """The rows as a table, and the seconds where there are any."""
    reference = next(key for key in report["rows"][0] if key.startswith("minus_"))
    table = Table(title=terminal.title(f"{report['method']}: {report['figure']}"), title_justify="left")
    for column in (
        "chunk",
        "variant",
        "users",
        "instances",
        "rate",
        "95 %",
        reference.replace("_", " "),
        "95 % ",
        "p",
    ):
        table.add_column(column, justify="left" if column in ("chunk", "variant") else "right")
    if drifted := "drift" in report["rows"][0]:
        table.add_column("drift", justify="right")
    last = None
    for row in report["rows"]:
        if last is not None and row["chunk"] != last:
            table.add_section()
        last = row["chunk"]
        cells: list[str | Text] = [
            str(row["chunk"]), shown(row["variant"]), str(row["n_users"]), str(row["instances"]), f"{row['expected_hit_rate@30']:.4f}",
            _interval(row["ci95"]), f"{row[reference]:+.4f}", _interval(row["difference_ci95"], "+"),
            "" if row["p_value"] is None else f"{row['p_value']:.2g}",
        ]  # fmt: skip
        drift_of = row.get("drift")
        table.add_row(*cells, *([] if not drifted else ["" if drift_of is None else f"{drift_of:.3f}"]))
    wide(console).print(table)
    for cost in report.get("costs", []):
        where = f"chunk {cost['chunk']}" if cost["chunk"] else "before the stream"
        line = f"{cost['variant']}, {where}: {cost['steps']} steps on {cost['events']:,} events, "
        console.print(shown(f"{line}{cost['seconds']:.1f} s"), highlight=False)


def _interval(interval: Sequence[float] | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval[0]:{sign}.4f} … {interval[1]:{sign}.4f}"
