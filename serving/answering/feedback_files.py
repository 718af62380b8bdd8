"""A file of feedback, read as the run's interactions were: their columns, their times, and what their kinds and ratings mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.data.config import PrepareConfig
from recsys.data.filters import give_meaning
from recsys.data.interactions import OPTIONAL, read_interactions
from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import SHARED, Table, require
from recsys.run import Run
from serving.answering.live import Given


@dataclass(frozen=True)
class FeedbackFile:
    """Events in the file's order; `place(number)` is the file and line of one, `left_out` why other rows are none."""

    events: list[Given]
    place: Callable[[int], str]
    left_out: dict[str, int]


def read_feedback(run: Run, path: Path, columns: Mapping[str, str]) -> FeedbackFile:
    """Events of `path`, which `recsys.door.sources` reads. `columns`, ours -> theirs, go before the run's own.

    Where `prepare.events`, `prepare.keep_events` or `prepare.min_rating` say which rows are for an item, the others are left out and
    counted: feedback is trained on as what people took. Raises `DataError` naming file and line.
    """
    prepare, notices = PrepareConfig.model_validate(run.read_config()["prepare"]), Notices()
    table = read_table(path)
    names = columns_of(table, prepare.columns, columns)
    moments = names.get("interactions.timestamp", names.get("timestamp", "timestamp"))
    if moments not in table.columns:  # the places in a list are no moments of the run's
        require(table, moments, "timestamp")
    rows = read_interactions(
        path,
        names,
        notices,
        table,
        prepare.time,
        prepare.missing_ids == "drop",
    )
    frame = rows.frame
    if "event" in frame:
        meant = prepare.events
        if meant is None:
            give_meaning(rows, None, notices)  # says which kinds there are, and which sound like dislikes
        if meant is not None:
            rows = rows.keep(frame["event"].map(lambda kind: isinstance(meant.get(kind), float)), "events")
        if prepare.keep_events is not None:
            rows = rows.keep(rows.frame["event"].isin(prepare.keep_events), "keep_events")
    if prepare.min_rating is not None and "rating" in frame:
        rows = rows.keep(rows.frame["rating"] >= prepare.min_rating, "min_rating")
    kept = rows.frame
    moments_of = kept["timestamp"].astype(int).tolist()
    events: list[Given] = [
        (user, item, moment, None)
        for user, item, moment in zip(kept["user_id"], kept["item_id"], moments_of, strict=True)
    ]
    lines = kept.index.to_numpy()
    return FeedbackFile(events, lambda number: rows.place(int(lines[number])), rows.dropped)


def columns_of(table: Table, of_run: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Ours -> theirs for one file: as `given`; else as the run's interactions named a column, where the file has it; else our name."""
    found = dict(given)
    for ours in (*SHARED, *OPTIONAL):
        theirs = of_run.get(f"interactions.{ours}", of_run.get(ours))
        said = ours in given or f"interactions.{ours}" in given
        needed = (
            ours in SHARED and ours not in table.columns
        )  # then the message names what the run was made from
        if theirs is not None and not said and (theirs in table.columns or needed):
            found[ours] = theirs
    return found
