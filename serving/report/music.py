"""The report's section on playlists: the music table, and the quality of the predictor that judged it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evaluation.engagement.tables import describe_predictor, predictor_tables
from evaluation.music.table import describe_music, music_tables
from evaluation.report.report import Section
from evaluation.report.tables import (
    Column,
    TitledTable,
    number,
    p_value,
    percent,
    rate,
    signed,
    signed_interval,
    text,
)
from recsys.run import Run

RELIABILITY_CAPTION = (
    "What share of shown items was engaged with where the predictor said p, with 95 % intervals over users; "
    "below, where its predictions lie. A calibrated predictor lies on the diagonal."
)
FOREST_CAPTION = (
    "Predicted engagement and affinity of each row's playlists relative to No Context, with the 95 % "
    "interval of the paired difference over users."
)
OWN_SENTENCE = (
    "Entropy and the share of distinct items are of 30 i.i.d. draws at t = 1: a row that has collapsed, or "
    "is only sharper than another, shows here; t is what validation chose."
)


def music_sections(run: Run) -> list[Section]:
    """The report's section on playlists; none for a run without them."""
    if run.record("music") is None:
        return []
    found = run.read_json("music", "music.json")
    table, quality = found["table"], found["predictor"]
    tables = [*music_tables(table), own_table(table), *predictor_tables(quality)]
    sentences = [*_how(table), *describe_music(table), OWN_SENTENCE, *describe_predictor(quality)]
    pictures = [
        (heading, caption, run.artifact("music", name).read_bytes())
        for heading, caption, name in (
            ("Playlists against No Context", FOREST_CAPTION, "playlists.png"),
            ("The predictor's reliability", RELIABILITY_CAPTION, "reliability.png"),
        )
        if (run.path / "music" / name).exists()
    ]
    lead = [
        *music_sentences(table),
        "No person was asked: a predictor stands in for them, and its own quality is told below.",
    ]
    return [Section("Playlists for queries", sentences, tables, pictures, lead)]


def five_music_columns(table: Mapping[str, Any]) -> TitledTable:
    """What the terminal shows of the music table."""

    def of(key: str, show: Callable[[Any], str]) -> Callable[[Any], str]:
        return lambda figure: show(None if figure is None else figure.get(key))

    columns: list[Column] = [
        ("Row", "name", text),
        ("engaged", "engagement", of("value", rate)),
        ("against", "engagement", of("relative_pct", percent)),
        ("p", "engagement", of("p_holm", p_value)),
        ("affinity", "affinity", of("value", rate)),
    ]
    title = f"Playlists for queries: predicted engagement, against {table['baseline']}, p by Holm"
    return title, columns, table["rows"]


def music_sentences(table: Mapping[str, Any]) -> list[str]:
    """The comparisons named before the run, and whether they are shown."""
    said = []
    for one in table["primary"]:
        bounds, p = one["difference_ci95"], one["p_holm"]
        told = "not tested"
        if bounds is not None and p is not None:
            told = "shown" if p < 0.05 and not bounds[0] <= 0 <= bounds[1] else "not shown"
        said.append(
            f"{one['a']} against {one['b']}: predicted engagement {signed(one['difference'])} "
            f"({signed_interval(bounds)}, p {p_value(p)}), {told}."
        )
    return said


def _how(table: Mapping[str, Any]) -> list[str]:
    seeds, correlation = table["seeds"], table["affinity_rank_correlation"]
    said = [
        f"Each row lists {table['n']} distinct items for each test query, drawn without replacement at t = "
        f"{table['temperature']:g}. Embedding Reranking keeps the nearest of {table['rerank_from']} that No "
        "Context draws. Rows of KTO learned from "
        f"{'shown items' if table['target'] == 'item' else 'whole shown lists'}, engaged or not."
    ]
    if len(seeds) == 1:
        said.append("One trained seed: intervals are over users, and say nothing of another training.")
    if table["kept_their_start"]:
        said.append(
            "Never better on validation than the LM row it started from, and so that row: "
            f"{', '.join(table['kept_their_start'])}."
        )
    if correlation is not None:
        said.append(
            "Over shown test items, user–item cosines of the affinity space and of the conditioning vectors "
            f"have a rank correlation of {correlation:.2f}: affinity is another training of the same kind of "
            "model, not another source."
        )
    return said


def own_table(table: Mapping[str, Any]) -> TitledTable:
    """How spread out what each row draws is."""

    def of(key: str, show: Callable[[Any], str]) -> Callable[[Mapping], str]:
        return lambda own: show(own.get(key))

    columns: list[Column] = [
        ("Row", "name", text),
        ("nats", "own", of("entropy", number(2))),
        ("distinct of 30", "own", of("distinct", rate)),
        ("t", "own", of("temperature", number(2))),
    ]
    return "Playlists: how spread out what a row draws is", columns, table["rows"]
