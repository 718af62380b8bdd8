"""The data card in words: what was read and what was left out, on the terminal and as the first section of report.html.

`recsys.data.card` counts it when the run is prepared; this reads what prepare.json and embed.json hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.report.tables import NONE, Column, TitledTable, text
from recsys.terminal import escaped

HEADING = "The data"
NO_CARD = (
    "This run was prepared before data cards were kept, so what was left out of its files was not counted; "
    "prepare the files into a new run to have its card"
)
SMALLEST = {"0": "smallest", "0.1": "10 %", "0.5": "median", "0.9": "90 %", "1": "largest"}


def card_tables(prepared: Mapping[str, Any], embedded: Mapping[str, Any] | None = None) -> list[TitledTable]:
    """(title, columns, rows) of the card in prepare.json, and of embed.json's coverage. [] for a run without a card."""
    card = prepared.get("card")
    if card is None:
        return []
    tables = [
        _pairs("What was read", _read(card)),
        _pairs("Who and what", _who(card)),
        _table("Histories", {"what": "number of"} | SMALLEST, _lengths(card)),
        _table(
            "What is asked for",
            {
                "role": "role",
                "events": "events",
                "repeats": "had before",
                "asked_for": "asked for",
                "without_history": "no history",
            },
            [{"role": role} | _counts(found) for role, found in card["targets"].items()],
        ),
        _pairs("Words", _words(card)),
    ]
    covered = [*card["coverage"], *_brought(embedded or {})]
    if covered:
        columns = {
            "what": "what is joined",
            "matched": "matched",
            "total": "of",
            "share": "share",
            "first": "the first without",
        }
        tables.append(_table("Coverage", columns, [_covered(found) for found in covered]))
    return tables


def card_sentences(prepared: Mapping[str, Any]) -> list[str]:
    """How the files were understood, and what was warned of; of a run without a card, that it has none."""
    if "card" not in prepared:
        return [NO_CARD]
    readings = [escaped(sentence) for sentence in prepared["card"]["readings"]]
    return [*readings, *(f"Warning: {escaped(warning['message'])}" for warning in prepared["warnings"])]


def print_card(
    prepared: Mapping[str, Any], embedded: Mapping[str, Any] | None = None, console: Console | None = None
) -> None:
    """Print the card, no wider than the terminal: what is long is wrapped, and no figure is cut."""
    console = console or Console()
    for title, columns, rows in card_tables(prepared, embedded):
        table = Table(
            title=title,
            box=SIMPLE_HEAD,
            title_justify="left",
            title_style="bold",
            padding=(0, 1),
            show_header=any(heading for heading, _, _ in columns),
        )
        for heading, key, _ in columns:
            is_text = key in ("what", "value", "first", "role")
            table.add_column(
                heading, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text
            )
        for row in rows:
            table.add_row(*(Text(show(row[key])) for _, key, show in columns))
        console.print(table)
    for sentence in card_sentences(prepared):
        console.print(Text(sentence))


# -- the tables --------------------------------------------------------------------------------------------------


def _pairs(title: str, pairs: Sequence[tuple[str, Any]]) -> TitledTable:
    columns: list[Column] = [("", "what", text), ("", "value", text)]
    return title, columns, [{"what": what, "value": escaped(value)} for what, value in pairs]


def _table(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> TitledTable:
    """`columns`: key -> heading; figures that a row lacks do not exist."""
    full = [{key: row.get(key, NONE) for key in columns} for row in rows]
    return title, [(heading, key, text) for key, heading in columns.items()], full


def _counts(found: Mapping[str, int]) -> dict[str, str]:
    return {key: f"{count:,}" for key, count in found.items()}


def _read(card: Mapping[str, Any]) -> list[tuple[str, Any]]:
    dropped = [
        (f"left out: {reason.replace('_', ' ')}", f"{n:,}") for reason, n in card["rows_dropped"].items()
    ]
    return [("rows read", f"{card['rows_read']:,}"), ("rows kept", f"{card['rows_kept']:,}"), *dropped]


def _who(card: Mapping[str, Any]) -> list[tuple[str, Any]]:
    kinds = [
        (f"events: {escaped(kind) or '(blank)'}", f"{n:,}") for kind, n in card["events_by_kind"].items()
    ]
    first, last = (_moment(at, card["time"]) for at in card["time_range"])
    return [
        ("users", f"{card['users']:,}"),
        ("items", f"{card['items']:,} ({card['items_without_events']:,} that nobody has had)"),
        ("events", f"{card['events']:,}"),
        *kinds,
        ("events against an item", f"{card['events_against']:,}"),
        ("times", f"{first} to {last}"),
        (
            "share their moment with another",
            f"{_share(card['tied_share'])} of all, {_share(card['tied_share_of_test'])} of test events",
        ),
        ("largest user", _largest(card["largest_user"])),
        ("largest user of training", _largest(card["largest_user_of_training"])),
        ("largest item", _largest(card["largest_item"])),
        ("may come again", "no (exclude_seen)" if card["exclude_seen"] else "yes"),
    ]


def _moment(at: int, kind: str) -> str:
    return f"{at:,}" if kind == "ordinal" else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _share(share: float | None) -> str:
    return NONE if share is None else f"{share:.1%}"


def _largest(found: Mapping[str, Any]) -> str:
    return f"{found['id'] or '(deleted)'}: {found['events']:,} events, {found['share']:.1%}"


def _lengths(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    named = {"events_a_user": "events of a user", "history_before_test": "events before a test event"}
    return [
        {"what": what} | {share: f"{value:,.0f}" for share, value in card[key].items()}
        for key, what in named.items()
    ]


def _words(card: Mapping[str, Any]) -> list[tuple[str, Any]]:
    columns = [(f"read as text: {escaped(name)}", f"{n:,} items") for name, n in card["text_columns"].items()]
    return [
        *(columns or [("read as text", "titles alone")]),
        ("items without a title", f"{card['items_without_title']:,}"),
        ("queries", f"{card['queries']:,} ({card['queries_of_nobody_known']:,} of nobody known)"),
    ]


def _brought(embedded: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = embedded.get("item_coverage")
    return [*([items] if items else []), *embedded.get("user_coverage", [])]


def _covered(found: Mapping[str, Any]) -> dict[str, Any]:
    share = found["matched"] / found["total"] if found["total"] else 1.0
    first = found["example"] if found["example"] is not None and found["matched"] < found["total"] else NONE
    return {
        "what": escaped(found["what"]),
        "matched": f"{found['matched']:,}",
        "total": f"{found['total']:,}",
        "share": f"{share:.1%}",
        "first": escaped(first),
    }
