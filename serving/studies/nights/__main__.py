"""`python -m serving.studies.nights`: thirty nights on ml-latest-small by its real times, as a table, a picture, and rows."""

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
from serving.studies.nights.measure import measure
from serving.studies.nights.world import Nights

DATA = Path(recsys.data.__file__).parent / "ml-latest-small"


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
    every: Annotated[int, typer.Option(min=0, help="Nights between two full trainings; 0: none.")] = 15,
    each: Annotated[
        int, typer.Option(min=1, help="Events of a user that a night is measured by, at most.")
    ] = 5,
    data: Annotated[Path, typer.Option(help="Folder of ratings.csv and movies.csv.")] = DATA,
) -> None:
    """One model from a cut on, by night: never refreshed, fed with events, refreshed, and trained anew every so many nights.

    Each night is measured by its own events before anybody learns of them: a request has the history strictly before it. What
    is finished of OUT is not done again, night by night.
    """
    out.mkdir(parents=True, exist_ok=True)
    world = Nights.of_movielens(data, nights, days, share)
    first = out / "first"
    if not (first / "personalize" / "stage.json").exists():
        typer.echo(f"first training: {train(config, world, 0, first).seconds:.0f} CPU s")
    arms: list[Arm] = [kind(world, first, out) for kind in (Never, Events, Refreshed)]
    if every:
        arms.append(Trained(world, first, out, config, every))
    rows, took = [], []
    for number in range(nights):
        asked, during = world.asked(number, each), world.during(number)
        for arm in arms:
            kept = arm.run.parent if arm.name != "trained" else out / "trained"
            path = kept / f"night-{number:02}.parquet"
            spent = arm.night(number) if not path.exists() else None
            if spent is not None:
                measured = measure(arm.service(), asked, during, "e2p", arm.sees_events)
                measured.assign(arm=arm.name, night=number).to_parquet(path)
                write_text_atomically(path.with_suffix(".json"), json.dumps(vars(spent)))
            elif isinstance(arm, Trained) and number and number % every == 0:
                arm.run = out / "trained" / f"run-{number:02}"
            rows.append(pd.read_parquet(path))
            took.append(
                json.loads(path.with_suffix(".json").read_text()) | {"arm": arm.name, "night": number}
            )
        now = {arm.name: f"{rows[at - len(arms)]['hit'].mean():.3f}" for at, arm in enumerate(arms)}
        typer.echo(f"night {number + 1}: {len(asked)} targets, {asked['is_new'].mean():.0%} new; {now}")
    everything, costs = pd.concat(rows, ignore_index=True), pd.DataFrame(took)
    everything.to_parquet(out / "nights.parquet")
    does = {arm.name: arm.does for arm in arms}
    text = table.markdown(everything, costs, does, nights)
    write_text_atomically(out / "nights.md", text)
    (out / "nights.png").write_bytes(table.picture(everything, costs, list(does), nights))
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
