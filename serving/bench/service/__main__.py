"""`python -m serving.bench.service RUN`: requests a second against a plain handler and `playlists`, tail latency, events, memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from serving.bench.service.measure import measured


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 20.0,
    repeats: Annotated[int, typer.Option(help="Of each side, in turn.")] = 3,
    different: Annotated[int, typer.Option(help="Different requests whose memory is measured; 0: none.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A JSON file of the figures.")] = None,
) -> None:
    """Measure a service on a run, client and server on this machine."""
    figures = measured(run, seconds, repeats, different, lambda text: typer.echo(text, err=True))
    text = json.dumps(figures, indent=1)
    typer.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    typer.run(main)
