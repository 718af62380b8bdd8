"""`prelude task`: run a personalized text task from a config, into a run directory of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
