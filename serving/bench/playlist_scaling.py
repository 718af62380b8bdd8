"""How playlist runs scale: seconds by requests, requests a second by workers, as a picture and a JSON.

    python -m serving.bench.playlist_scaling RUN --out scaling.png

Requests are made of the run's own users and queries (half of them without one). Seconds are those of the
whole call, from reading the input to the manifest, with the start of the workers (imports, weights), which
does not grow with the requests.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from evaluation.report.style import COLOURS, png, style
from recsys.data.dataset import Dataset
from recsys.run import Run
from recsys.seeds import rng
from serving.engines.choose import engine
from serving.playlists.job import playlists
from serving.playlists.plan import Settings

REQUESTS = (250, 1000, 4000)
WORKERS = (1, 2)


def made_requests(run: Run, count: int, seed: int = 0) -> pa.Table:
    """`count` requests of random users, half of them with a random query of the run's data."""
    data, draw = Dataset.load(run), rng(seed, "playlist requests")
    users = [str(user) for user in data.user_ids if user]
    queries: list[str | None] = data.queries["query"].tolist() or [None]
    return pa.table(
        {
            "request_id": [f"r{number:09}" for number in range(count)],
            "user_id": [users[at] for at in draw.integers(0, len(users), count)],
            "query": pa.array(
                [
                    queries[at] if draw.random() < 0.5 else None
                    for at in draw.integers(0, len(queries), count)
                ],
                pa.string(),
            ),
        }
    )


def measure(
    run: Path, counts: Sequence[int], workers: Sequence[int], engine_name: str, settings: Settings
) -> Iterator[dict[str, Any]]:
    """One run of playlists for each count and number of workers, in a folder that is gone afterwards."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "requests.parquet"
            pq.write_table(made_requests(Run.open(run), count), source)
            for some in workers:
                out = Path(folder) / f"out-{some}"
                call = playlists(run, source, out, engine(engine_name, some), settings)["last_call"]
                yield {"requests": count} | call | {"workers": some}


def picture(measured: Sequence[dict[str, Any]]) -> bytes:
    """Requests against seconds, a line for each number of workers;
    workers against the rate, a line for each count.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.2), layout="constrained")
    style(left, "seconds of a run")
    style(right, "requests a second")
    for place, some in enumerate(sorted({row["workers"] for row in measured})):
        points = [(row["requests"], row["seconds"]) for row in measured if row["workers"] == some]
        name = f"{some} worker{'s' if some > 1 else ''}"
        left.plot(*zip(*points, strict=True), "o-", color=COLOURS[place], label=name)
    for place, count in enumerate(sorted({row["requests"] for row in measured})):
        points = [(row["workers"], count / row["seconds"]) for row in measured if row["requests"] == count]
        right.plot(*zip(*points, strict=True), "o-", color=COLOURS[place], label=f"{count:,} requests")
    left.set_xlabel("requests")
    right.set_xlabel("workers")
    right.set_xticks(sorted({row["workers"] for row in measured}))
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    return png(figure)


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[Path, typer.Option(help="The picture; the figures go beside it as JSON.")],
    requests: Annotated[list[int] | None, typer.Option(help=f"Repeatable. Default: {REQUESTS}.")] = None,
    workers: Annotated[list[int] | None, typer.Option(help=f"Repeatable. Default: {WORKERS}.")] = None,
    engine_name: Annotated[str, typer.Option("--engine", help="local or ray.")] = "local",
    method: Annotated[str | None, typer.Option(help="Default: e2p where the run has it.")] = None,
) -> None:
    """Measure how playlist runs scale on this machine."""
    measured = []
    for row in measure(run, requests or REQUESTS, workers or WORKERS, engine_name, Settings(method=method)):
        measured.append(row)
        typer.echo(
            f"{row['requests']:,} requests, {row['workers']} workers: {row['seconds']:,.1f} s, "
            f"{row['requests'] / row['seconds']:,.1f} requests/s, {row['peak_bytes_sum'] / 2**30:.2f} GiB"
        )
        out.with_suffix(".json").write_text(json.dumps(measured, indent=1))
    out.write_bytes(picture(measured))


if __name__ == "__main__":
    typer.run(main)
