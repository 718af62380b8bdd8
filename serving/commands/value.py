"""`prelude value`: what another policy would have earned, and what the arms of an experiment did."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from recsys import terminal
from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run
from serving.commands.serve import needs_extra

if TYPE_CHECKING:
    from evaluation.value.estimators import Value


def value(
    run: RunPath,
    policy: Annotated[
        str | None, typer.Option(help="Method or product to judge. Default: what each list was made by.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Its temperature. Default: each list's own.")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="Its strength. Default: each list's own.")] = None,
    log: Annotated[
        str | None, typer.Option(metavar="URL", help="The service's state. Default: SQLite beside the run.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The service's settings.")] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="Types of events that an item earns 1 by. Repeatable. Default: click, play, like."),
    ] = None,
    arms: Annotated[str | None, typer.Option(help="Compare the arms of this experiment instead.")] = None,
    drawn_only: Annotated[
        bool, typer.Option("--drawn-only", help="Leave out lists that were not drawn.")
    ] = False,
    since: Annotated[float, typer.Option(help="Lists made at or after these Unix seconds.")] = 0.0,
    until: Annotated[float, typer.Option(help="Lists made before these Unix seconds.")] = 1e18,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell from the lists that a service has drawn what another policy would have earned.

    Another method:   prelude value runs/demo --policy no_context
    Warmer draws:     prelude value runs/demo --temperature 1.3
    An experiment:    prelude value runs/demo --arms warmth

    Every list was kept with the exact probabilities of its draws; weighing by
    the policy's own gives IPS, its self-normalised form and a doubly robust
    estimate, with intervals over users. Events must name the recommendation_id.
    Where the lists say nothing about the policy, that is said, and no figure.
    """
    refuse_no_run(run)
    needs_extra()
    from serving.service.settings import TYPES, load_settings
    from serving.state.place import url_of
    from serving.state.store import State

    rewarded = tuple(reward or ("click", "play", "like"))
    if wrong := sorted(set(rewarded) - set(TYPES)):
        raise ValueError(f"--reward {wrong[0]}: types of events are {', '.join(TYPES)}")
    if arms is not None and (policy, temperature, strength) != (None, None, None):
        raise ValueError(
            "--arms compares what was shown; --policy, --temperature and --strength go without it"
        )
    state = State(log or url_of(run))
    try:
        if arms is not None:
            _arms(state, arms, rewarded, since, until, as_json)
            return
        from serving.value.job import Policy
        from serving.value.job import value as value_of

        found = value_of(
            run,
            state,
            Policy(policy, temperature, strength),
            load_settings(config),
            rewarded,
            drawn_only,
            since,
            until,
        )
    finally:
        state.close()
    if as_json:
        typer.echo(terminal.as_json(asdict(found)))
        return
    table = Table(
        title=f"Reward a list, from {found.lists:,} lists of {found.users:,} users", title_justify="left"
    )
    for column in ("estimate", "value", "95 % interval"):
        table.add_column(column)
    rows = {"as shown": found.logged, "IPS": found.ips, "SNIPS": found.snips, "doubly robust": found.dr}
    for name, one in rows.items():
        if one is not None:
            table.add_row(name, f"{one.value:.4f}", _interval(one))
    Console().print(table)
    typer.echo(
        f"worth {found.effective:.0f} lists of the policy's own; the largest weighs {found.largest:.1f} times the mean"
    )


def _interval(one: Value) -> str:
    return "one user" if one.interval is None else f"{one.interval[0]:.4f} to {one.interval[1]:.4f}"


def _arms(
    state: Any, name: str, rewarded: tuple[str, ...], since: float, until: float, as_json: bool
) -> None:
    from serving.state.arms import compare_arms

    report = compare_arms(state, name, rewarded, since, until)
    if as_json:
        pairs = {f"{b} - {a}": asdict(found) for (a, b), found in report.pairs.items()}
        typer.echo(terminal.as_json({"arms": [asdict(arm) for arm in report.arms], "pairs": pairs}))
        return
    for arm in report.arms:
        typer.echo(escaped(f"{arm.name}: {arm.reward:.4f} a list ({arm.users:,} users, {arm.lists:,} lists)"))
    for (a, b), found in report.pairs.items():
        if found.interval is None or found.always is None:
            typer.echo(escaped(f"{b} - {a}: too few users"))
            continue
        once, always = (f"[{low:+.4f}, {high:+.4f}]" for low, high in (found.interval, found.always))
        typer.echo(
            escaped(
                f"{b} - {a}: {found.difference:+.4f}, {once} at one planned look, {always} at any number of looks"
            )
        )
