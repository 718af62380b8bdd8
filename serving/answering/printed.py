"""A ranked list on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from recsys import terminal
from recsys.terminal import shown

if TYPE_CHECKING:
    from serving.answering.recommender import Recommendations


def print_recommendations(found: Recommendations, title: str, console: Console) -> None:
    table = Table(title=terminal.title(f"{title} ({found.method}; {found.path})"), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("item")
    table.add_column("title")
    table.add_column("score", justify="right")
    for rank, item in enumerate(found, 1):
        table.add_row(str(rank), shown(item.item_id), shown(item.title), f"{item.score:.3f}")
    console.print(table)
