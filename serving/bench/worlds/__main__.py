"""`python -m serving.bench.worlds`: made data with a known structure, of any size, as partitioned Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.bench.worlds.planted import Settings
from serving.bench.worlds.write import BLOCK, PART, write_world


def count(text: str) -> int:
    """A whole number: 1000000, 1_000_000 or 1e6."""
    try:
        value = float(str(text).replace(",", ""))
    except ValueError:
        value = 0.5
    if value != value // 1:
        raise typer.BadParameter(f"{text!r} is no whole number; expected one such as 1000000 or 1e6")
    return int(value)


def main(
    users: Annotated[
        int, typer.Option(parser=count, metavar="N", help="Users; those drawn least may have no event.")
    ],
    items: Annotated[int, typer.Option(parser=count, metavar="N", help="Items, all in the items file.")],
    events: Annotated[int, typer.Option(parser=count, metavar="N", help="Events: 1e5, 1e7 …")],
    out: Annotated[Path, typer.Option(help="The folder, new or empty.")],
    seed: Annotated[int, typer.Option(help="Of every draw; the same seed gives the same bytes.")] = 0,
    clusters: Annotated[int, typer.Option(help="Clusters of taste; 0: the square root of the items.")] = 0,
    follow: Annotated[
        float, typer.Option(help="Share of events that are the successor of the user's last.")
    ] = 0.3,
    noise: Annotated[float, typer.Option(help="Share of the others that are of anyone's cluster.")] = 0.1,
    drift: Annotated[
        float, typer.Option(help="Share of a taste that has gone over to the second at the end.")
    ] = 0.5,
    trend: Annotated[float, typer.Option(help="Part of a cluster by which popularity moves on.")] = 0.1,
    skew: Annotated[float, typer.Option(help="Zipf exponent of popularity in a cluster.")] = 1.0,
    days: Annotated[int, typer.Option(help="From the first event to the last.")] = 365,
    queries: Annotated[
        int, typer.Option(parser=count, metavar="N", help="How many events come with a query.")
    ] = 0,
    requests: Annotated[
        int, typer.Option(parser=count, metavar="N", help="Requests for prelude playlists.")
    ] = 0,
    text: Annotated[bool, typer.Option("--text", help="A sentence about each item as well.")] = False,
    part: Annotated[int, typer.Option("--part-rows", help="Rows of a file.")] = PART,
    block: Annotated[int, typer.Option("--block", help="Events in memory at once; changes no byte.")] = BLOCK,
) -> None:
    """Write a made world: clusters of taste, Zipf's popularity, drift, titles in words, and the truth about it all.

    Each user likes one cluster of items and goes over to another; in a cluster a few items are had often; and
    whoever had an item is likely to go on to its successor. truth.json has it all in a closed form: World.open(FOLDER).next_item(user,
    time, last) is the probability of every item, so that a learner can be held against what was planted.

    python -m serving.bench.worlds --users 1e4 --items 1e4 --events 1e5 --out world
    prelude prepare runs/world --interactions world/interactions --items world/items
    """
    try:
        settings = Settings(
            users, items, events, seed, clusters, follow, noise, drift, trend, skew, days=days
        )
        write_world(settings, out, text, queries, requests, part, block)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


if __name__ == "__main__":
    typer.run(main)
