"""The commands of texts: `prelude task` and `prelude summarize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run


def task(
    config: Annotated[
        Path | None,
        typer.Argument(help="YAML configuration, for example configs/tasks/movielens_rating.yaml."),
    ] = None,
    run: Annotated[Path, typer.Option("--run", "-r", help="Run directory.")] = Path("runs/task"),
    data: Annotated[
        Path | None, typer.Option("--data", help="The task's file or folder, instead of the config's.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Change one setting, e.g. --set prefix.steps=100. Repeatable."),
    ] = None,
) -> None:
    """Measure ways to personalize on a text task: tagging, ratings, dialogue. A killed run resumes."""
    from recsys.run import Run
    from serving.config.values import read_values, validated
    from serving.text_tasks.tasks import TextTaskConfig, run_task

    changes = [*([f"data.path={str(data)!r}"] if data is not None else []), *(set_ or [])]
    base = Run(run).read_config() if config is None and (run / "config.yaml").exists() else None
    run_task(validated(TextTaskConfig, *read_values(config, changes, base)), Run.create(run))


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
