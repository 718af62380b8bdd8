"""The command `prelude summarize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run


def summarize(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Parquet file to write: user_id, timestamp, summary.")],
    model: Annotated[
        str, typer.Option(help="smollm2, a folder or a hub name: a model that follows instructions.")
    ] = "smollm2",
    titles: Annotated[int, typer.Option(help="Titles that the model is told, the latest ones.")] = 12,
    tokens: Annotated[int, typer.Option(help="Longest summary, in tokens.")] = 40,
) -> None:
    """Have a language model describe every user in a sentence, for PAG and P2P. A killed call goes on."""
    refuse_no_run(run)
    from serving.studies import summaries

    typer.echo(escaped(summaries.summarize(run, out, model, titles, tokens)))
