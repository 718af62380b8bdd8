"""The music table on the terminal and in a run's report, with the quality of the predictor that judged it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from evaluation.engagement_tables import describe_predictor, predictor_tables
from evaluation.playlist_table import describe_music, music_tables
from evaluation.report import Section, print_tables
from evaluation.tables import Column, TitledTable, interval, number, rate, text
from recsys.run import Run

RELIABILITY_CAPTION = (
    "What share of shown items was engaged with where the predictor said p, with 95 % intervals over users; below, where its "
    "predictions lie. A calibrated predictor lies on the diagonal."
)
FOREST_CAPTION = (
    "Predicted engagement and affinity of each row's playlists relative to No Context, with the 95 % interval of the paired difference "
    "over users."
)
OWN_SENTENCE = (
    "No predictor is needed for this one: the chance that a row gives an engaged item of a shown list a higher probability than one that "
    "was not engaged with (.5 is chance). Entropy and the share of distinct items are of 30 i.i.d. draws at t = 1: a row that has "
    "collapsed shows here."
)


def publish_music(run: Run, found: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the table and the predictor's quality, and draw the run's report again."""
    from serving.evaluate import with_costs, write_run_report  # it asks for `music_sections` itself

    section = music_sections(run)[0]
    print_tables(section.tables, section.sentences, console or Console())
    if run.record("evaluate") is not None:
        from evaluation.results import Results

        results = Results.read(run.artifact("evaluate", "results.json"))
        write_run_report(run, with_costs(run, results))


def music_sections(run: Run) -> list[Section]:
    """The report's section on playlists; none for a run without them."""
    if run.record("music") is None:
        return []
    found = run.read_json("music", "music.json")
    table, quality = found["table"], found["predictor"]
    tables = [*music_tables(table), own_table(table), *predictor_tables(quality)]
    sentences = [_how(table), *describe_music(table), OWN_SENTENCE, *describe_predictor(quality)]
    pictures = [
        (heading, caption, run.artifact("music", name).read_bytes())
        for heading, caption, name in (
            ("Playlists against No Context", FOREST_CAPTION, "playlists.png"),
            ("The predictor's reliability", RELIABILITY_CAPTION, "reliability.png"),
        )
        if (run.path / "music" / name).exists()
    ]
    return [Section("Playlists for queries", sentences, tables, pictures)]


def _how(table: Mapping[str, Any]) -> str:
    return (
        f"Each row lists {table['n']} distinct items for each test query, drawn without replacement at t = {table['temperature']:g}. "
        f"Embedding Reranking keeps the nearest of {table['rerank_from']} that No Context draws. Rows of KTO learned from "
        f"{'shown items' if table['target'] == 'item' else 'whole shown lists'}, engaged or not."
    )


def own_table(table: Mapping[str, Any]) -> TitledTable:
    """What each row's own probabilities say of the test lists."""

    def of(key: str, show: Callable[[Any], str]) -> Callable[[Mapping | None], str]:
        return lambda own: show(None if own is None else own[key])

    columns: list[Column] = [
        ("Row", "name", text),
        ("engaged above not", "own", of("liked_above_disliked", rate)),
        ("95 % interval", "own", of("liked_above_disliked_ci95", interval)),
        ("nats", "own", of("entropy", number(2))),
        ("distinct of 30", "own", of("distinct", rate)),
    ]
    return "Playlists: what each row's own probabilities say", columns, table["rows"]
