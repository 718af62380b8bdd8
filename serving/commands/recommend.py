"""`prelude recommend`: one user, one question, one list."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from recsys import terminal
from serving.commands.options import (
    Cap,
    InSequence,
    ListOrder,
    MethodName,
    Moment,
    RunPath,
    Strength,
    refuse_no_run,
)


def recommend(
    run: RunPath,
    user: Annotated[str | None, typer.Option(help="User id, as in the interactions file.")] = None,
    query: Annotated[str | None, typer.Option(help="What the user asks for, in words.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="How many items.")] = 10,
    method: MethodName = None,
    strength: Strength = 1.0,
    temperature: Annotated[
        float,
        typer.Option(
            help="0: best first. 1: draws from the model's own distribution. Between: likelier ones."
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draws; the same seed gives the same list.")] = 0,
    sequence: InSequence = False,
    cap: Cap = None,
    order: ListOrder = "as made",
    time: Moment = None,
    history: Annotated[
        str | None,
        typer.Option(help="Item ids, oldest first, comma-separated: instead of the known history."),
    ] = None,
    exclude: Annotated[
        str | None, typer.Option(help="Item ids that may not be returned, comma-separated.")
    ] = None,
    allow: Annotated[
        str | None, typer.Option(help="The only item ids that may be returned, comma-separated.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit weights (CPU); prints what they do to the distribution.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend items to one user, with or without a query.

    The best ten:       prelude recommend RUN --user 42 --query "dark comedy"
    Ten others:         prelude recommend RUN --user 42 --temperature 1
    A playlist:         prelude recommend RUN --user 42 --temperature 1 --sequence
    Not all of a kind:  prelude recommend RUN --user 42 --cap genres=3

    Scores of generative methods are log-probabilities: of the item alone, or,
    with --sequence, of the item after those before it (their sum is the
    list's). A list is shorter than n when nothing is left that is available
    and fits the caps. Ids that the run does not know are ignored, and counted.
    """
    refuse_no_run(run)
    from serving.answering.limits import check_options

    check_options(n, temperature, strength, seed)
    caps = caps_of_options(cap or [])
    from serving.answering.printed import print_recommendations
    from serving.answering.recommender import Recommender

    found = Recommender.load(run, int8).recommend(
        user,
        query,
        n,
        method=method,
        strength=strength,
        temperature=temperature,
        seed=seed,
        time=time,
        history=_ids(history),
        exclude=_ids(exclude) or (),
        allow=_ids(allow),
        sequence=sequence,
        caps=caps,
        order=order,
    )
    if as_json:
        rows = [vars(item) for item in found]
        ignored = {what: vars(counted) for what, counted in found.ignored.items()}
        answer = {"method": found.method, "path": found.path, "ignored": ignored, "items": rows}
        typer.echo(terminal.as_json(answer))
    else:
        asked = f" who asks for “{query}”" if query else ""
        print_recommendations(found, f"For user {user}{asked}", Console())
    for note in found.notes():
        typer.echo(terminal.escaped(note), err=True)
    if len(found) < n:
        typer.echo(f"{len(found)} of {n} items: nothing else is available and fits", err=True)


def caps_of_options(pairs: list[str]) -> dict[str, int]:
    """`genres=3`, … as a mapping.

    Raises `ValueError` naming the option that is not of that form, or is given twice.
    """
    caps: dict[str, int] = {}
    for pair in pairs:
        column, _, limit = (part.strip() for part in pair.rpartition("="))
        if not column or not limit.isdecimal():
            raise ValueError(f"--cap {pair}: expected a column and a whole number, for example genres=3")
        if column in caps:
            raise ValueError(f"--cap {pair}: {column} is capped twice")
        caps[column] = int(limit)
    return caps


def _ids(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
