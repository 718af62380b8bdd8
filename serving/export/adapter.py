"""`prelude export-adapter`: a user's adapter as a folder that PEFT loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export_adapter(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, for example runs/demo.")],
    user: Annotated[str, typer.Option(help="User id, as in the interactions file.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    query: Annotated[
        str | None, typer.Option(help="What the user asks for; P2P's profile depends on it.")
    ] = None,
    method: Annotated[str, typer.Option(help="A method whose update is a LoRA.")] = "p2p",
    seed: Annotated[int | None, typer.Option(help="Trained replica; default: the first.")] = None,
    time: Annotated[int | None, typer.Option(help="Unix seconds: hide everything at or after.")] = None,
) -> None:
    """Write the LoRA that a method uses for one user (and query) as a PEFT adapter."""
    from llm.methods.peft_export import export_adapter as write
    from recsys.recommender import Request
    from recsys.run import Run
    from serving.answering.methods import Methods
    from serving.config.run import load_config

    opened = Run.open(run)
    methods = Methods(opened, load_config(None, base=opened.read_config()))
    if method not in methods.available():
        raise ValueError(f"this run has no method {method!r}; it has {', '.join(methods.available())}")
    data = methods.dataset
    index = data.user_index(user)
    if index is None:
        raise ValueError(f"the run knows no user {user!r}")
    moment = int(data.times.max()) + 1 if time is None else time
    if len(data.before(index, moment)[0]) == 0:
        raise ValueError(f"user {user!r} has no event before {moment}: No Context is what they get")
    request = Request("export", index, moment, *data.before(index, moment), query=query)
    facts = write(methods.reading(method, seed), request, out)
    typer.echo(
        f"{out}: {methods.name(method)} for user {user}: rank {facts['rank']} on {facts['layers']} layers, "
        f"{facts['parameters']:,} parameters; load it onto the merged Stage 1 model "
        f"(PeftModel.from_pretrained(load_adapted(run, config.adapt).inner, folder))"
    )
