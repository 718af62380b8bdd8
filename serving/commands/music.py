"""The commands of runs with labelled playlists: `prelude engagement`, `align`, `music`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.commands.options import Changes, ConfigPath, RunPath
from serving.commands.stages import run_one


def engagement(
    run: RunPath,
    config: ConfigPath = None,
    lists: Annotated[
        Path | None, typer.Option(help="Your own: user_id,timestamp,query,item_id,engaged (0 or 1).")
    ] = None,
    set_: Changes = None,
) -> None:
    """Make labelled playlists (query, items shown, engaged or not) from a file, ratings or tags, \
in disjoint parts."""
    own = [] if lists is None else [f"engagement.lists={str(lists)!r}"]
    run_one("engagement", run, config, [*own, *(set_ or [])])


def align(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Train prefixes on labelled playlists, by likelihood, by E2P's equation (5) and by KTO, \
the model frozen."""
    run_one("align", run, config, set_ or [])


def music(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """The music table: playlists for the test queries by every row, judged by an engagement predictor."""
    run_one("music", run, config, set_ or [])
