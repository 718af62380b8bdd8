"""report.html: one self-contained file; first a verdict and a picture, then the data, five people's lists, and the tables, folded."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from evaluation.report.glossary import FIRST_SCREEN, TERMS, term_of
from evaluation.report.overview import overview
from evaluation.report.plots import by_group, code_use, forest, training_curves, tsne_pair
from evaluation.report.reading import P_VALUES, how_to_read
from evaluation.report.tables import NONE, Column, TitledTable, all_tables, describe, method_table, text
from evaluation.report.verdict import sentences
from evaluation.table.results import Results
from recsys.artifacts.rewrite import write_text_atomically

LONGEST_LIST = 12  # longer ones belong to a picture or to the run's json files

FOREST_CAPTION = (
    "A difference is shown where its interval leaves out zero. The bar is the paired difference's 95 % "
    "interval over users, as a percentage of the row it is compared with."
)
ACTIVITY_CAPTION = (
    "Each row by the number of events that its user had before the instance, with the 95 % interval over "
    "users; in grey the baseline on the same instances and by the same figure (of ranked lists for rows "
    "without draws: diamonds). A user may stand at several levels."
)
TSNE_CAPTION = (
    "t-SNE of user embeddings and of the same users' soft prefixes, coloured by taste (E2P, Figure 2); "
    "vectors are scaled to length 1 first. Neighbours mean something; axes and far distances do not."
)
CURVES_CAPTION = (
    "Blue: mean training loss since the last point. Orange: the validation value (higher is better); the ring is the "
    "state that was kept. Each line has a scale of its own, from its least to its largest value."
)
CODES_CAPTION = (
    "Items per code at each level of the semantic ID. A flat curve is good use; one that falls to zero early "
    "has dead codes."
)


@dataclass(frozen=True)
class Section:
    """A part of the report beside the evaluation: sentences, tables (title, columns, rows),
    pictures (heading, caption, PNG). Where there is a `lead`, that is what one reads first, and the sentences are folded.
    """

    heading: str
    sentences: Sequence[str]
    tables: Sequence[TitledTable]
    pictures: Sequence[tuple[str, str, bytes]] = ()
    lead: Sequence[str] = ()


def write_report(
    path: str | Path,
    results: Results,
    curves: Mapping[str, Mapping] | None = None,
    code_counts: Sequence[np.ndarray] | None = None,
    tsne: Mapping[str, Any] | None = None,
    quality: Mapping | None = None,
    timings: Mapping[str, float] | None = None,
    extra: Mapping | None = None,
    more_pictures: Sequence[tuple[str, str, bytes | None]] = (),
    sections: Sequence[Section] = (),
    data: Section | None = None,
    people: Mapping[str, Any] | None = None,
) -> None:
    """Write one self-contained HTML file.

    `curves[name]` = {"losses": [(step, value)], "validation": [(step, value)]}; `code_counts`: per level,
    items per code; `tsne` = {"embeddings" [U, d], "prefixes" [U, h], "labels" [U]}; `quality`: figures of the
    semantic IDs; `timings`: stage -> seconds; `extra`: heading -> text or mapping; `more_pictures`: (heading,
    caption, PNG); `sections` stand behind them, and `data`, the data card, and `people`, lists of real users side by side
    (`heading`, `how`, `people`: name, about, target and columns of items), before all tables. What is None is left out.
    """
    environment = Environment(
        loader=PackageLoader("evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        sentences=describe(results),
        verdict=sentences(results),
        dots=overview(results),
        first_terms=[(name, TERMS[name]) for name in FIRST_SCREEN],
        p_values=P_VALUES,
        people=people,
        data=None if data is None else _section(data),
        is_sample=results.protocol["is_sample"],
        tables=[
            *(_html_table(*table, results.primary["a"]) for table in all_tables(results)),
            _html_table(*method_table(results), results.primary["a"], sortable=False),
        ],
        pictures=_pictures(results, curves or {}, code_counts or [], tsne, more_pictures),
        sections=[_section(section) for section in sections],
        lists=_lists(results, quality, timings, extra),
    )
    write_text_atomically(Path(path), html)


def _section(section: Section) -> dict[str, Any]:
    pictures = [(head, caption, base64.b64encode(png).decode()) for head, caption, png in section.pictures]
    tables = [_html_table(*table, "") for table in section.tables]
    return {
        "heading": section.heading,
        "lead": section.lead,
        "sentences": section.sentences,
        "tables": tables,
        "pictures": pictures,
    }


def _html_table(
    title: str, columns: Sequence[Column], rows: Sequence[Mapping], first: str, sortable: bool = True
) -> dict[str, Any]:
    """Cells are (text, number as measured or None); a heading comes with what it means, where a term says so."""
    body = [
        {
            "cells": [(show(row[key]), _number(row[key])) for _, key, show in columns],
            "is_first": row.get("name", row.get("a")) == first,
            "is_bad": row.get("sampled_agrees") is False,
        }
        for row in rows
    ]
    heads = [(heading, _meaning(heading)) for heading, _, _ in columns]
    headed = any(heading for heading, _ in heads)
    return {
        "title": title,
        "how": how_to_read(title),
        "heads": heads,
        "headed": headed,
        "rows": body,
        "sortable": sortable and headed,
    }


def _meaning(heading: str) -> str | None:
    term = term_of(heading)
    if term is None and "users" in heading and "\n" in heading:
        return "Of this group's own instances, with its users and instances."
    return None if term is None else f"{term}: {TERMS[term]}"


def _number(value: Any) -> str | None:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return repr(float(value)) if is_number else None


def _pictures(
    results: Results,
    curves: Mapping,
    code_counts: Sequence[np.ndarray],
    tsne: Mapping | None,
    more: Sequence[tuple[str, str, bytes | None]],
) -> list:
    """(heading, caption, base64 PNG) of every picture there is something to draw for."""
    drawn = [
        ("Effects", FOREST_CAPTION, forest(results)),
        ("Quality by activity", ACTIVITY_CAPTION, by_group(results.groups.get("activity", []))),
        ("What users look like, before and after", TSNE_CAPTION, tsne_pair(**tsne) if tsne else None),
        *more,
        ("Training", CURVES_CAPTION, training_curves(curves)),
        ("Use of the codes", CODES_CAPTION, code_use(code_counts)),
    ]
    return [
        (head, caption, base64.b64encode(png).decode()) for head, caption, png in drawn if png is not None
    ]


def _lists(results: Results, quality: Mapping | None, timings: Mapping | None, extra: Mapping | None) -> list:
    """(heading, [(name, text)]) of the plain listings at the end."""
    seconds = {name: f"{value:,.1f} s" for name, value in (timings or {}).items()}
    if seconds:
        seconds["all stages"] = f"{sum((timings or {}).values()):,.1f} s"
    lists = [("Semantic IDs", _flat(quality or {})), ("Time by stage", _flat(seconds))]
    for name, value in (extra or {}).items():
        lists.append((name, _flat(value) if isinstance(value, Mapping) else [("", str(value))]))
    lists.append(("Protocol, as recorded", _flat(results.protocol)))
    return [(heading, pairs) for heading, pairs in lists if pairs]


def _flat(values: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (name, text) pairs; four significant digits, long lists as their length."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        label = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{label}: ")
        elif isinstance(value, list | tuple | np.ndarray):
            pairs.append((label, _list(value)))
        else:
            pairs.append((label, _plain(value)))
    return pairs


def _list(values: Sequence | np.ndarray) -> str:
    if len(values) > LONGEST_LIST or any(
        isinstance(item, Mapping | list | tuple | np.ndarray) for item in values
    ):
        return f"{len(values)} entries"
    return ", ".join(_plain(item) for item in values) or NONE


def _plain(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else text(value)
