"""Finished runs held against each other: the same test or none, paired tests, what differs, curves over each other, a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.compare.measured import RunFigures
from evaluation.compare.page import print_comparison, sentences, write_page
from evaluation.compare.paired import compare_rows
from evaluation.compare.pictures import curves_together, differences
from evaluation.report.style import saved
from evaluation.table.config import EvaluateConfig
from evaluation.table.kept import NAME, read_instances
from recsys.artifacts.paths import RunError
from recsys.artifacts.rewrite import write_text_atomically
from recsys.artifacts.settings import Difference
from recsys.artifacts.settings import differences as settings_that_differ
from recsys.run import Run
from serving.config.sections import SECTIONS

LEARNING = ("embed", "tokenize", "adapt", "personalize", "align")  # stages that leave curves.json
MOST_SETTINGS = 12  # that are told of two runs; compare.json has all


def compare_runs(paths: Sequence[Path], out: Path, rows: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare the runs at `paths` with the first of them; write `compare.html`, `compare.json` and pictures into `out`; print.

    Raises `RunError` where a run was not evaluated, or before figures of each instance were kept, and `ValueError`
    where test sets differ, saying how; then nothing is written.
    """
    runs = [Run.open(path) for path in paths]
    names = names_of(paths)
    figures = [_figures(run, name) for run, name in zip(runs, names, strict=True)]
    record = runs[0].record("evaluate")
    assert record is not None
    config = EvaluateConfig.model_validate(record["made_from"]["config"])
    found = compare_rows(figures, config, rows)
    told, settings = what_differs(runs, names)
    found |= {"settings": settings, "sentences": sentences(found, config.alpha)}
    out.mkdir(parents=True, exist_ok=True)
    curves = {name: curves_of(run) for name, run in zip(names, runs, strict=True)}
    drawn = (
        ("Hits", "hits", differences(found, "hits")),
        ("Nats at matched calibration", "nats", differences(found, "nats")),
        ("Learning curves", "curves", curves_together(curves)),
    )
    pictures = [(heading, saved(figure, out, stem)) for heading, stem, figure in drawn if figure is not None]
    write_text_atomically(out / "compare.json", json.dumps(found, indent=1))
    write_page(out / "compare.html", found, told, pictures, config.alpha)
    print_comparison(found, told, config.alpha)
    return found


def names_of(paths: Sequence[Path]) -> list[str]:
    """A short name each: the folder's, or as much of the path as sets it apart. Raises `ValueError` for a run that is given twice."""
    parts = [path.resolve().parts for path in paths]
    for place, one in enumerate(parts):
        if one in parts[:place]:
            raise ValueError(f"{paths[place]} is given twice; name runs that differ")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("paths that differ have names that differ")


def _figures(run: Run, name: str) -> RunFigures:
    record = run.record("evaluate")
    if record is None:
        raise RunError(f"{run.path} was not evaluated; run: prelude evaluate {run.path}")
    if NAME not in record["artifacts"]:
        raise RunError(
            f"{run.path} was evaluated before figures of each instance were kept; remove {run.path / 'evaluate'} and "
            f"run: prelude evaluate {run.path}"
        )
    protocol = run.read_json("evaluate", "results.json")["protocol"]
    return RunFigures(name, read_instances(run.artifact("evaluate", NAME)), protocol)


def what_differs(runs: Sequence[Run], names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Lines on data and settings of each later run against the first, the settings cut to `MOST_SETTINGS`; and all of these."""
    first, told, whole = runs[0], [], {}
    for run, name in zip(runs[1:], names[1:], strict=True):
        told.append(f"{name}, data: {_data(first, run)}")
        found = [
            _setting(one, names[0])
            for stage in (*SECTIONS, "evaluate")
            for one in _settings(stage, first, run)
        ]
        whole[name] = found
        if not found:
            told.append(f"{name}, settings: none differ")
        told += [f"{name}, {line}" for line in found[:MOST_SETTINGS]]
        if len(found) > MOST_SETTINGS:
            told.append(f"{name}: {len(found) - MOST_SETTINGS} more settings, all in compare.json")
    return told, whole


def _settings(stage: str, first: Run, other: Run) -> list[Difference]:
    records = [run.record(stage) for run in (first, other)]
    then, now = ({} if record is None else record["made_from"]["config"] or {} for record in records)
    if bool(records[0]) != bool(records[1]):
        then, now = {}, {}
    return settings_that_differ(stage, then, now)


def _setting(one: Difference, first: str) -> str:
    then, now = (json.dumps(value, ensure_ascii=False, default=str) for value in (one.then, one.now))
    short = [text if len(text) <= 40 else f"{text[:39]}…" for text in (then, now)]
    return f"{one.setting}: {short[0]} in {first}, {short[1]} here"


def _data(first: Run, other: Run) -> str:
    """The same bytes, or which counts differ."""
    hashes = [
        {
            name: digest
            for name, digest in (run.record("prepare") or {"artifacts": {}})["artifacts"].items()
            if name.endswith(".parquet")
        }
        for run in (first, other)
    ]
    if hashes[0] == hashes[1]:
        return "the same, to the byte"
    a, b = (run.read_json("prepare", "prepare.json") for run in (first, other))
    parts = [
        f"{key} {a['counts'][key]:,} → {b['counts'].get(key, 0):,}"
        for key in a["counts"]
        if a["counts"][key] != b["counts"].get(key)
    ]
    parts += [
        f"{role} {a['roles'][role]:,} → {b['roles'].get(role, 0):,}"
        for role in a["roles"]
        if a["roles"][role] != b["roles"].get(role)
    ]
    if a["time_range"] != b["time_range"]:
        parts.append(f"times {a['time_range']} → {b['time_range']}")
    files = sorted(
        name for name in hashes[0].keys() | hashes[1].keys() if hashes[0].get(name) != hashes[1].get(name)
    )
    return (
        "; ".join(parts) or "as many of everything, yet other bytes"
    ) + f" (files that differ: {', '.join(files)})"


def curves_of(run: Run) -> dict[str, Any]:
    """The learning curves that a run's stages left, by the learner's name."""
    found: dict[str, Any] = {}
    for stage in LEARNING:
        record = run.record(stage)
        if record is not None and "curves.json" in record["artifacts"]:
            found |= run.read_json(stage, "curves.json")
    return found
