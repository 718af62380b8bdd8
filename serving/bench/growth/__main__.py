"""`python -m serving.bench.growth`: every stage of a run at several sizes, as a table, a JSON and a picture."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from serving.bench.growth import table
from serving.bench.growth.measure import Measured, measure, read, write
from serving.bench.growth.stages import OPTIONAL, STAGES, START, Size, command, default_size

CONFIG = Path("configs/growth.yaml")


def count(text: str) -> int:
    """1e6 or 1000000."""
    value = float(text)
    if value != value // 1 or value < 1:
        raise typer.BadParameter(f"{text!r} is no whole number from 1 up")
    return int(value)


def main(
    out: Annotated[
        Path, typer.Option(help="Folder for worlds, runs, growth.json, growth.md and growth.png.")
    ],
    events: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N", help="A size; a tenth as many users, and items. Repeatable. Default: 1e5 1e6."
        ),
    ] = None,
    config: Annotated[
        Path, typer.Option(help="Settings of the runs; few steps, for the growth is what counts.")
    ] = CONFIG,
    only: Annotated[
        list[str] | None, typer.Option("--stage", help=f"Of {', '.join(STAGES)}. Repeatable. Default: all.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again what has been measured.")] = False,
    requests: Annotated[int, typer.Option(parser=count, metavar="N", help="Of playlists.")] = 100_000,
    method: Annotated[str, typer.Option(help="That playlists and load ask.")] = "e2p",
    limit_s: Annotated[float, typer.Option(help="Seconds after which a stage is ended.")] = 3600.0,
) -> None:
    """Seconds and peak memory of every stage at several sizes, each in a process of its own.

    The exponent is that between the two largest sizes; two decades more are by extrapolation. What was measured is kept
    in growth.json and not measured again, so that a call that was ended goes on, and a size can be added later. What the stage
    `start` takes (imports alone) is set aside before an exponent is taken.

    python -m serving.bench.growth --out growth --events 1e5 --events 1e6
    python -m serving.bench.growth --out growth --events 1e7 --stage world --stage prepare --stage load
    """
    stages = only or [
        stage for stage in STAGES if stage not in OPTIONAL or f"\n{stage}:" in config.read_text()
    ]
    if unknown := sorted(set(stages) - set(STAGES)):
        raise typer.BadParameter(f"there is no stage {unknown[0]!r}; expected some of {', '.join(STAGES)}")
    out.mkdir(parents=True, exist_ok=True)
    measured = read(out / "growth.json")
    for size in (default_size(count(text), requests) for text in events or ("1e5", "1e6")):
        for stage in (stage for stage in STAGES if stage in stages):
            before = [one for one in measured if (one.stage, one.size) == (stage, size)]
            if any(one.failed is None for one in before) and not again:
                _say(before[0], "measured before")
                continue
            found = _one(stage, size, out, config, method, limit_s)
            _say(found)
            measured = [one for one in measured if one not in before] + [found]
            write(out / "growth.json", measured)
            if found.failed:
                break  # what comes after needs it
    (out / "growth.md").write_text(table.markdown(measured), encoding="utf-8")
    (out / "growth.png").write_bytes(table.picture(measured))
    typer.echo(table.markdown(measured))


def _one(stage: str, size: Size, out: Path, config: Path, method: str, limit_s: float) -> Measured:
    folder = out / size.name
    folder.mkdir(exist_ok=True)
    made = {START: None, "world": folder / "world", "load": None, "playlists": folder / "playlists"}
    made_by = made.get(stage, folder / "run" / stage)
    if made_by is not None:
        shutil.rmtree(made_by, ignore_errors=True)
    command_line = command(stage, size, folder, config, method)
    return measure(stage, size, command_line, folder / f"{stage}.log", limit_s)


def _say(one: Measured, more: str = "") -> None:
    state = one.failed or more
    typer.echo(
        f"{one.size.events:>12,} events  {one.stage:<12} {one.seconds:9.1f} s  {one.cpu_s:9.1f} CPU s  "
        f"{one.peak_bytes / 2**30:6.2f} GiB  {state}"
    )


if __name__ == "__main__":
    typer.run(main)
