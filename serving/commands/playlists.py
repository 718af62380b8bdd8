"""The command `prelude playlists`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import Cap, InSequence, ListOrder, MethodName, RunPath, Strength, refuse_no_run


def playlists(
    run: RunPath,
    requests: Annotated[
        Path,
        typer.Option(
            help="Parquet, or any file that prepare reads, or a folder: request_id, user_id, query; optional "
            "time, n, exclude, allow."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for playlists/, rejected/ and manifest.json.")],
    n: Annotated[
        int, typer.Option("--n", "-n", help="Items, where a request does not say; at most 1000.")
    ] = 30,
    method: MethodName = None,
    strength: Strength = 1.0,
    temperature: Annotated[
        float, typer.Option(help="0: best first. Above: draws without replacement.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    sequence: InSequence = False,
    cap: Cap = None,
    order: ListOrder = "as made",
    engine: Annotated[
        str, typer.Option(help="local: processes of this machine. ray: Ray Data on a cluster (RAY_ADDRESS).")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Each loads the model once and has one thread. Default: one a core, fewer where memory is "
            "short (1.5 GiB each)."
        ),
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs of each worker (ray).")] = 0.0,
    batch: Annotated[int, typer.Option(help="Requests of a micro-batch.")] = 32,
    memory_mb: Annotated[
        int, typer.Option(help="MiB that a worker's micro-batch may take beside the weights.")
    ] = 256,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete what is in --out, and begin again.")
    ] = False,
) -> None:
    """Answer a file of requests, of any size, overnight: playlists as Parquet.

    In: one row a request. request_id and user_id are text or whole numbers, user_id and query may be null; \
time (Unix seconds, or dates) hides everything at or after it; exclude and allow are lists of item ids \
(in a CSV file a|b). Folders may be nested. Parquet of any size is streamed, other files are held in memory.

    Out: playlists/*.parquet (request_id, rank, item_id, score), rejected/*.parquet (request_id, file, row, \
reason) and, at the end, manifest.json with counts, hashes, rate and memory. A row that cannot be \
answered is set aside with the reason (n above 1000 and lists of over 100,000 ids are reasons too); \
nothing else stops. Users whom the run does not know are answered, and counted.

    Killed at any point, the same command goes on, with no request lost or doubled. Feedback that the run \
absorbs meanwhile (prelude update) is left out until the next run of playlists. The bytes of playlists/ \
are the same for every engine, number of workers, and order or partitioning of the input (on processors \
of one kind). They do depend on the run and on every setting but --engine, --workers and --gpus.

    \b
    prelude playlists runs/demo --requests requests.parquet --out tonight
    prelude playlists RUN --requests folder/ --out DIR --engine ray --gpus 1
    """
    refuse_no_run(run)
    from serving.commands.recommend import caps_of_options
    from serving.engines import choose
    from serving.playlists import job
    from serving.playlists.plan import Settings

    settings = Settings(
        n=n,
        method=method,
        strength=strength,
        temperature=temperature,
        seed=seed,
        sequence=sequence,
        caps=caps_of_options(cap or []) or None,
        order=order,
        batch=batch,
        memory_mb=memory_mb,
    )
    manifest = job.playlists(run, requests, out, choose.engine(engine, workers, gpus), settings, restart)
    typer.echo(escaped(job.summary(manifest, out)))
