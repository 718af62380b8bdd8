"""What a run publishes of its figures: `results.json` with costs, `report.html`, tables on the terminal."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from evaluation.report.data_card import HEADING, card_sentences, card_tables
from evaluation.report.report import Section, write_report
from evaluation.report.terminal import print_folded, print_table
from evaluation.table.results import Results
from recsys.run import Run
from recsys.terminal import shown
from serving.answering.defaults import default_sentences, of_evaluate
from serving.report.choices import choice_sections
from serving.report.costs import cost_pictures
from serving.report.experiments import experiment_pictures
from serving.report.music import five_music_columns, music_sections, music_sentences
from serving.report.people import people_section
from serving.stages.names import COMBINED_STAGES, PLAYLIST_STAGES


def publish(run: Run, results: Results, tells: bool = True) -> None:
    """Write `results.json` with what the methods cost at the top of the run, `report.html` beside it, and print the verdict, if it `tells`.

    Costs are timings, so they are kept apart from the figures until here:
    those are the same bytes whenever they are made.
    """
    results = with_costs(run, results)
    results.write(run.path / "results.json")
    write_run_report(run, results)
    if tells:
        tell(run)


def tell(run: Run, console: Console | None = None) -> None:
    """Print the verdict of a run's results.json, its table, and what answers by default."""
    console = console or Console()
    print_table(Results.read(run.path / "results.json"), console)
    for sentence in default_sentences(run):
        console.print(shown(sentence), highlight=False)


def with_costs(run: Run, results: Results) -> Results:
    """The figures, with what each method costs in its row, and what a query changes."""
    costs = run.read_json("evaluate", "costs.json")["rows"]
    rows = [row | costs.get(row["name"], {}) for row in results.rows]
    return replace(results, rows=rows, queries=of_evaluate(run, "queries.json") or {})


def remake(run: Run) -> None:
    """Write `results.json` and `report.html` of an evaluated run again, and print the verdict. Raises `ValueError` for a run that is not evaluated."""
    if run.record("evaluate") is None:
        raise ValueError(
            f"{run.path} is not evaluated, so there is nothing to report; prelude evaluate {run.path}"
        )
    publish(run, Results.read(run.artifact("evaluate", "results.json")))


def write_run_report(run: Run, results: Results) -> None:
    """Write `report.html` from what the stages left."""
    curves: dict[str, dict] = {}
    for stage in ("embed", "tokenize", "adapt", "personalize"):
        curves |= run.read_json(stage, "curves.json")
    if run.record("align") is not None:
        curves |= run.read_json("align", "curves.json")
    quality = run.read_json("tokenize", "quality.json")
    tsne = run.read_json("evaluate", "prefixes.json")
    if tsne is not None:
        tsne = {key: np.array(value) for key, value in tsne.items() if key != "users"}
    timings = {
        stage: record["seconds"]
        for stage in COMBINED_STAGES + PLAYLIST_STAGES
        if (record := run.record(stage))
    }
    prepared, embedded = run.read_json("prepare", "prepare.json"), run.read_json("embed", "embed.json")
    extra = {"Data": prepared["counts"], "Embeddings": embedded}
    gc.disable()  # pictures are many small objects; to look for dead ones among all that a run left costs as much as to draw
    try:
        write_report(
            run.path / "report.html",
            results,
            curves,
            [np.array(level["counts"]) for level in quality["levels"]],
            tsne,
            quality,
            timings,
            extra,
            [*cost_pictures(run.read_json("evaluate", "costs.json")), *experiment_pictures(run)],
            [*choice_sections(run), *music_sections(run)],
            Section(HEADING, card_sentences(prepared), card_tables(prepared, embedded)),
            people_section(of_evaluate(run, "people.json")),
        )
    finally:
        gc.enable()


def publish_music(run: Run, found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the music table's five columns and the comparisons named before the run, and draw the run's report again."""
    console = console or Console()
    print_folded(console, *five_music_columns(found["table"]))
    where = run.path / ("report.html" if run.record("evaluate") is not None else "music/music.json")
    for line in [*music_sentences(found["table"]), f"All tables, and how good the predictor is: {where}"]:
        console.print(shown(line), highlight=False)
    if run.record("evaluate") is not None:
        results = Results.read(run.artifact("evaluate", "results.json"))
        write_run_report(run, with_costs(run, results))
