"""`python -m serving.studies.nights`: simulated nights on ml-latest-small by its real times, or on a made world: table, picture, rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import recsys.data
from recsys.artifacts.rewrite import write_text_atomically
from serving.studies.nights import table
from serving.studies.nights.arms import Arm, Events, Never, Refreshed, Trained, train
from serving.studies.nights.made import made_nights
from serving.studies.nights.measure import measure
from serving.studies.nights.world import Nights

DATA = Path(recsys.data.__file__).parent / "ml-latest-small"
KINDS: tuple[type[Arm], ...] = (Never, Events, Refreshed, Trained)


def main(
    out: Annotated[Path, typer.Option(help="Folder for runs, nights.md, nights.png and nights.parquet.")],
    config: Annotated[Path, typer.Option(help="What is trained, at first and anew.")] = Path(
        "configs/nights.yaml"
    ),
    nights: Annotated[int, typer.Option(min=1, help="How many.")] = 30,
    days: Annotated[float, typer.Option(help="Real days that a night stands for.")] = 60.0,
    share: Annotated[
        float, typer.Option(min=0.1, max=0.95, help="Of the events: the first training has them.")
    ] = 0.7,
    arm: Annotated[list[str] | None, typer.Option(help="Ways to live on. Repeatable. Default: all.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Nights between two full trainings.")] = 10,
    each: Annotated[
        int, typer.Option(min=1, help="Events of a user that a night is measured by, at most.")
    ] = 5,
    people: Annotated[
        int | None,
        typer.Option(min=1, help="Users that a night is measured by, at most; drawn. Default: all."),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of ratings.csv and movies.csv.")] = DATA,
    world: Annotated[
        Path | None,
        typer.Option(
            help="A folder of python -m serving.bench.worlds, in place of --data, --days and --share."
        ),
    ] = None,
    new_items: Annotated[
        float, typer.Option(help="Of such a world's items: they come with each night.")
    ] = 0.01,
    new_events: Annotated[
        float, typer.Option(help="Of such a world's events before the first night: those of each night.")
    ] = 0.03,
) -> None:
    """One model from a cut on, by night: never refreshed, fed with events, refreshed, and trained anew every so many nights.

    Each night is measured by its own events before anybody learns of them: a request has the history strictly before it. What
    is finished of OUT is not done again, night by night.
    """
    out.mkdir(parents=True, exist_ok=True)
    if world is None:
        lived = Nights.of_movielens(data, nights, days, share)
    else:
        lived = made_nights(world, nights, new_items, new_events)
    if unknown := sorted(set(arm or ()) - {kind.name for kind in KINDS}):
        raise typer.BadParameter(
            f"there is no arm {unknown[0]!r}; expected {', '.join(one.name for one in KINDS)}"
        )
    first = out / "first"
    if not (first / "personalize" / "stage.json").exists():
        typer.echo(f"first training: {train(config, lived, 0, first).seconds:.0f} CPU s")
    chosen = [kind for kind in KINDS if arm is None or kind.name in arm]
    arms: list[Arm] = [
        Trained(lived, first, out, config, every) if issubclass(kind, Trained) else kind(lived, first, out)
        for kind in chosen
    ]
    rows, took = [], []
    for number in range(nights):
        for one in arms:
            _live(one, lived, number, each, people)
            rows.append(pd.read_parquet(one.measured(number)))
            took.append(json.loads(one.took(number).read_text()) | {"arm": one.name, "night": number})
        now = {
            one.name: f"{row['hit'].mean():.3f}" for one, row in zip(arms, rows[-len(arms) :], strict=True)
        }
        typer.echo(f"night {number + 1}: {len(rows[-1])} targets, {rows[-1]['is_new'].mean():.0%} new; {now}")
    everything, costs = pd.concat(rows, ignore_index=True), pd.DataFrame(took)
    everything.to_parquet(out / "nights.parquet")
    names = [one.name for one in arms]
    text = table.markdown(everything, costs, names, nights)
    write_text_atomically(out / "nights.md", text)
    (out / "nights.png").write_bytes(table.picture(everything, costs, names, nights))
    typer.echo(text)


def _live(arm: Arm, lived: Nights, number: int, each: int, people: int | None) -> None:
    """An arm's night, and what its run says of that night's events; nothing where that is done."""
    arm.run = arm.run_of(number)
    if arm.measured(number).exists():
        return
    spent = arm.night(number)
    if not arm.took(
        number
    ).exists():  # else the night was lived through by a call that was ended before it was measured
        write_text_atomically(arm.took(number), json.dumps(vars(spent)))
    asked = lived.asked(number, each, people)
    found = measure(arm.service(), asked, lived.during(number), "e2p", arm.sees_events)
    found.assign(arm=arm.name, night=number).to_parquet(arm.measured(number))


if __name__ == "__main__":
    typer.run(main)
