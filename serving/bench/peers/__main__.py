"""Other libraries beside Prelude on one split, by one evaluator: `make bench-peers`.

    python -m serving.bench.peers --data ml-latest-small --data beauty --out runs/peers

Each peer runs in an environment of its own, made once in OUT/venvs. What has finished is not run again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving.bench.peers.catalogue import BEAUTY, ML, PEERS, SECONDS, Peer, of_run
from serving.bench.peers.contract import whole
from serving.bench.peers.driver import Settings, is_same_split, prepared, run_peers
from serving.bench.peers.table import markdown
from serving.bench.suite import machine

NOBODY = "none"


def main(
    data: Annotated[
        list[str] | None, typer.Option(help=f"{ML}, {BEAUTY}, or a prepared run's folder. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Splits, environments, lists and tables.")] = Path("runs/peers"),
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Which to run; the table has all that have finished. Repeatable; "
            f"default all: {', '.join(PEERS)}; {NOBODY}: a table alone."
        ),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A finished run of one of the splits: its generator and product too. Repeatable."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="CPU seconds of training a peer; it ends with the epoch in which they are spent. "
            f"Default: {SECONDS[BEAUTY]:g} on {BEAUTY}, elsewhere {SECONDS['']:g}."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Of every peer.")] = os.cpu_count() or 1,
    reach: Annotated[
        float, typer.Option(help="R@10 on validation, the seconds to which are a column.")
    ] = 0.09,
    validation: Annotated[int, typer.Option(help="Validation requests at most; 0: all.")] = 5000,
) -> None:
    """Train peers and Prelude on the same events, ask the same test, and print one table a data set."""
    for name in peer or ():
        if name not in PEERS and name != NOBODY:
            raise SystemExit(f"there is no peer {name!r}; expected some of {', '.join(PEERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the peer at work is ended too
    home, placed = os.environ.get("PRELUDE_DATA"), set[Path]()
    for one in data or [ML, *([BEAUTY] if home else [])]:
        work, given = out / Path(one).name, seconds or SECONDS.get(one, SECONDS[""])
        settings = Settings(seconds=given, threads=threads, validation=validation)
        try:
            prepared_run = prepared(one, work, Path(home) / "amazon2014" / "Beauty" if home else None)
            rows, only = list(PEERS.values()), set(peer or PEERS)
            for finished in run or ():
                if is_same_split(prepared_run, Run.open(finished)):
                    rows += _rows_of(finished)
                    placed.add(finished)
            only |= {row.key for row in rows[len(PEERS) :]}
            found = list(run_peers(rows, one, prepared_run, out, settings, typer.echo, only))
        except (ValueError, RunError) as error:
            raise SystemExit(f"{one}: {error}") from None
        table = {"machine": machine(), "settings": settings.__dict__, "rows": found}
        text = markdown(found, reach)
        whole(work / "table.json", lambda path, table=table: path.write_text(json.dumps(table, indent=1)))  # type: ignore[misc]
        whole(work / "table.md", lambda path, text=text: path.write_text(text))  # type: ignore[misc]
        typer.echo(f"\n{one}, {datetime.now(UTC):%Y-%m-%d}, {threads} threads\n\n{text}")
    if other := sorted(set(run or ()) - placed):
        raise SystemExit(
            f"{other[0]} has other events or holds out others than every data set here; give its folder as --data"
        )


def _rows_of(run: Path) -> list[Peer]:
    from serving.bench.peers.from_run import methods_of

    return of_run(run.absolute(), methods_of(run))


if __name__ == "__main__":
    typer.run(main)
