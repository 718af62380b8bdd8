"""The command `prelude bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def bench(
    quick: Annotated[bool, typer.Option(help="Smaller cases: five to ten minutes on two cores.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="One case, such as stage1; a name that is none says which there are. Repeatable."),
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
) -> None:
    """Measure every hot path against what you would otherwise pick, on your own machine.

    Each case runs ours and its peer in turn and prints the ratio of their times, with its range over \
the runs. Peers
    are an extra: pip install '.\\[bench]'. PRELUDE_DATA names a folder with amazon2014/Beauty for the
    LightGCN case; without it a graph of that size is made up.
    """
    from serving.bench import suite

    for path in (json_, markdown):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    results = list(suite.run_cases(only or suite.CASES, quick))
    suite.print_results(results, Console())
    if json_ is not None:
        suite.write_json(results, json_, quick)
    if markdown is not None:
        suite.write_markdown(results, markdown)
