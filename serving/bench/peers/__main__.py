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
from serving.bench.peers.catalogue import BEAUTY, ML, PEERS, of_run
from serving.bench.peers.contract import whole
from serving.bench.peers.driver import Settings, prepared, run_peers
from serving.bench.peers.table import markdown
from serving.bench.suite import machine


def main(
    data: Annotated[
        list[str] | None, typer.Option(help=f"{ML}, {BEAUTY}, or a prepared run's folder. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Splits, environments, lists and tables.")] = Path("runs/peers"),
    peer: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; default all: {', '.join(PEERS)}.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A finished run of the same split: its generator and product too.")
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help="CPU seconds of training a peer; it ends with the epoch in which they are spent."),
    ] = 1200,
    threads: Annotated[int, typer.Option(help="Of every peer.")] = os.cpu_count() or 1,
    reach: Annotated[
        float, typer.Option(help="R@10 on validation, the seconds to which are a column.")
    ] = 0.09,
    validation: Annotated[int, typer.Option(help="Validation requests at most; 0: all.")] = 5000,
) -> None:
    """Train peers and Prelude on the same events, ask the same test, and print one table a data set."""
    for name in peer or ():
        if name not in PEERS:
            raise SystemExit(f"there is no peer {name!r}; expected some of {', '.join(PEERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the peer at work is ended too
    settings = Settings(seconds=seconds, threads=threads, validation=validation)
    home = os.environ.get("PRELUDE_DATA")
    for one in data or [ML, *([BEAUTY] if home else [])]:
        work = out / Path(one).name
        try:
            prepared_run = prepared(one, work, Path(home) / "amazon2014" / "Beauty" if home else None)
            rows = [PEERS[name] for name in peer or PEERS]
            if run is not None:
                from serving.bench.peers.from_run import methods_of

                rows += of_run(run.absolute(), methods_of(run))
            found = list(run_peers(rows, one, prepared_run, out, settings, typer.echo))
        except (ValueError, RunError) as error:
            raise SystemExit(f"{one}: {error}") from None
        table = {"machine": machine(), "settings": settings.__dict__, "rows": found}
        text = markdown(found, reach)
        whole(work / "table.json", lambda path, table=table: path.write_text(json.dumps(table, indent=1)))  # type: ignore[misc]
        whole(work / "table.md", lambda path, text=text: path.write_text(text))  # type: ignore[misc]
        typer.echo(f"\n{one}, {datetime.now(UTC):%Y-%m-%d}, {threads} threads\n\n{text}")


if __name__ == "__main__":
    typer.run(main)
