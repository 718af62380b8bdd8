"""How far a run is: the time of each stage, and where the configuration says something else of a finished one."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from recsys.artifacts.manifest import stale, told_stale
from recsys.run import Run
from recsys.terminal import shown
from serving.config.sections import SECTIONS
from serving.stages.names import COMBINED_STAGES, PLAYLIST_STAGES


def print_timings(run: Run, console: Console) -> None:
    """Seconds of each stage; where there are any, those of calls that were killed or failed stand beside them."""
    rows, lost = [], 0.0
    for name in COMBINED_STAGES + PLAYLIST_STAGES:
        record, unfinished = run.record(name), run.unfinished_seconds(name)
        lost += unfinished
        if record or unfinished:
            rows.append((name, record["seconds"] if record else None, unfinished))
    table = Table(title="Time of each stage", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    if lost:
        table.add_column("killed calls", justify="right")
    rows.append(("all", sum(seconds or 0.0 for _, seconds, _ in rows), lost))
    for name, seconds, unfinished in rows:
        cells = [name, "unfinished" if seconds is None else f"{seconds:.1f}"]
        if lost:
            cells.append(f"{unfinished:.1f}" if unfinished else "")
        table.add_row(*cells, style="bold" if name == "all" else None)
    console.print(table)


def print_differences(run: Run, console: Console) -> None:
    """A line for each setting that its finished stage was not made from, and each stage that was made from other artifacts than there are;
    `recommend` and `evaluate` refuse such a run.
    """
    records = {name: run.record(name) for name in SECTIONS}
    if run.exported() is None:
        for line in told_stale(stale(records, SECTIONS)):
            console.print(shown(line), highlight=False)
    try:
        values = run.read_config()
        if all(
            record is None or values.get(name) in (None, record["made_from"]["config"])
            for name, record in records.items()
        ):
            return  # as they were made, to the word: to understand settings takes seconds of imports
        from serving.config.run import load_config
        from serving.config.truth import settings_changed

        told = [str(one) for one in settings_changed(run, load_config(None, base=values))]
    except ValueError as error:
        if not any(records.values()):
            return  # a run of text tasks
        told = [str(error)]
    for line in told:
        console.print(shown(f"config.yaml: {line}"), highlight=False)
