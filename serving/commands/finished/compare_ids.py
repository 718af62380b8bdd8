"""The command `prelude compare-ids`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import Changes


def compare_ids(
    config: Annotated[
        Path, typer.Argument(help="YAML configuration; its tokenize section is what variants change.")
    ],
    run: Annotated[
        Path, typer.Option("--run", "-r", help="Run directory; variants are runs in its folder ids.")
    ],
    variants: Annotated[
        Path,
        typer.Option(
            help="YAML: name → changes of the tokenize section, e.g. text: {source: text, levels: 2}."
        ),
    ],
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="--no-train: print the scores alone.")
    ] = True,
    instances: Annotated[
        int, typer.Option(min=0, help="Validation instances to measure, a seeded sample. 0: all.")
    ] = 0,
    set_: Changes = None,
) -> None:
    """Does an ID-quality score predict recall? Trains Stage 1 on every variant of the IDs and correlates.

    Prepares and embeds once; each variant is tokenized, adapted and measured on VALIDATION instances \
in RUN/ids/NAME.
    Writes compare_ids.json and two pictures into RUN. Killed, it resumes; what is done is not done again.
    """
    from rich.console import Console

    from recsys.run import Run
    from serving.config.run import load_config
    from serving.studies.compare_ids import compare, print_comparison, read_variants

    resolved = load_config(config, set_ or [])
    named = read_variants(variants, resolved)
    opened = Run.create(run)
    report = compare(resolved, named, opened, train, instances)
    print_comparison(report, Console())
    if train:
        files = f"{opened.path / 'compare_ids.json'}, compare_ids.png and compare_ids_hit_rate.png"
        print(escaped(f"compare-ids: {files}"))
