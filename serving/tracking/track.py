"""What a tracker is told of a finished stage: its curves, and of `evaluate` the final figures, the settings, and where things lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys.run import Run
from serving.config.track import TrackConfig
from serving.tracking.trackers import Points, Tracker, tracker

LINKED = ("report.html", "results.json", "manifest.json", "config.yaml")
NOT_TOLD = ("example", "track")  # `example.user` is a person's id
# of a row's figures those that are of quality; figures with a number behind the name too
FIGURES = ("hit_rate@", "expected_hit_rate@", "top", "recall@", "ndcg@", "entropy_nats")


def track_stage(config: TrackConfig, run: Run, stage: str) -> None:
    """Tell the tracker of a stage that has just finished. Raises `ValueError` where its package is not installed."""
    curves = list(curves_of(run, stage))
    if not curves and stage != "evaluate":
        return
    told = tracker(config, run.path)
    try:
        for name, points in curves:
            told.scalars(name, points)
        if stage == "evaluate":
            _final(told, run)
    finally:
        told.close()


def _final(told: Tracker, run: Run) -> None:
    for name, value in figures_of(run.read_json("evaluate", "results.json")):
        told.scalars(name, [(0, value)])
    told.settings({name: str(value) for name, value in settings_of(run.read_config())})
    told.links({name: path for name in LINKED if (path := Path(run.path.absolute()) / name).exists()})


def curves_of(run: Run, stage: str) -> Iterator[tuple[str, Points]]:
    """(stage/learner/loss or validation, points) of a stage's `curves.json`."""
    record = run.record(stage)
    if record is None or "curves.json" not in record["artifacts"]:
        return
    for learner, curve in run.read_json(stage, "curves.json").items():
        for kind, name in (("losses", "loss"), ("validation", "validation")):
            points = [(int(step), float(value)) for step, value in curve.get(kind, ())]
            if points:
                yield f"{stage}/{learner}/{name}", points


def figures_of(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(evaluate/row/figure, value) of every figure of quality that a row has, and its nats at matched calibration."""
    for row in results["rows"]:
        for figure, value in row.items():
            if figure.startswith(FIGURES) and isinstance(value, float):
                yield f"evaluate/{row['name']}/{figure.replace('@', '_at_')}", value
    for row in results.get("matched", {}).get("rows", ()):
        if isinstance(row.get("nats"), float):
            yield f"evaluate/{row['name']}/nats", row["nats"]


def settings_of(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting, but of `NOT_TOLD`; a list without mappings is one value."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            if place or key not in NOT_TOLD:
                yield from settings_of(value, f"{place}.{key}" if place else str(key))
    elif isinstance(values, list) and any(isinstance(one, dict) for one in values):
        for at, value in enumerate(values):
            key = value.get("key", at) if isinstance(value, dict) else at
            yield from settings_of(value, f"{place}.{key}")
    else:
        yield place, values
