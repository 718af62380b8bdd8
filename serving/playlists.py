"""Playlists for millions of requests: what `prelude playlists` does, from a folder of Parquet to a folder of Parquet.

    DIR/
      playlists/part-000-00000.parquet …   request_id, rank (1 is first), item_id, score; by request id within a file
      rejected/…                           request_id, file, row (1-based), reason
      manifest.json                        counts, the sha256 of every file, what it was made from, how fast
      .partial/                            while it runs: plan.json, dealt/, requests/, drafts/, done/

A run has four phases, and each begins where a kill left it: *deal* (rows to shards, anew), *sort* (a shard at a time), *answer*
(a part at a time: a finished file is a finished task) and *close* (count everything, then rename `done/` into place). The bytes
of `playlists/` depend on the set of requests, the run and the settings alone: see `serving.playlist_shards`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from recsys.rewrite import to_disk, write_text_atomically
from recsys.run import Run
from serving.engines import Engine, Work
from serving.playlist_close import check_and_count, peaks
from serving.playlist_plan import Settings, fingerprint_of, plan_of, refuse_another
from serving.playlist_requests import Source
from serving.playlist_shards import deal, dealt, name_of, sort_shard, write_parquet
from serving.untrained import UNTRAINED

RESULTS = ("playlists", "rejected", "manifest.json")  # the manifest last: with it the run is finished
WORK = ".partial"


def playlists(
    run: str | Path,
    requests: str | Path,
    out: str | Path,
    engine: Engine,
    settings: Settings | None = None,
    restart: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Answer all of `requests` (a Parquet file or a folder of them) into the folder `out`; returns the manifest.

    Called again after a kill it goes on, and after the end it does nothing. `restart` deletes what `out` has of a run
    of playlists first. Raises `DataError` for files that cannot be read and `ValueError` for an `out` that was begun
    with something else, or is in use; both before anything is written.
    """
    settings, out, requests = settings or Settings(), Path(out), Path(requests)
    opened = Run.open(run)
    if requests.is_dir() and out.resolve().is_relative_to(requests.resolve()):
        raise ValueError(f"{out} lies in {requests}, whose files are the requests; give another --out")
    source = Source(requests)
    _refuse_method(opened, settings)
    plan = plan_of(opened, source, settings)
    _refuse_strangers(out)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        if restart:
            _delete(out)
        if (finished := _begun(out, plan)) is not None:
            return finished
        return _Job(out, plan, source, settings, engine, quiet).run()


class _Job:
    """A run of playlists, begun or gone on with. The folder is locked, and the plan in it is this one."""

    def __init__(
        self, out: Path, plan: dict, source: Source, settings: Settings, engine: Engine, quiet: bool
    ):
        self.out, self.plan, self.source = out, plan, source
        self.settings, self.engine, self.quiet = settings, engine, quiet
        self.work = out / WORK
        self.shards, self.part = plan["cut"]["shards"], plan["cut"]["part"]
        self.names = [file.name for file in source.files]
        self.workers: dict[str, int] = {}  # peak bytes of each worker of this call

    def run(self) -> dict[str, Any]:
        begun = time.monotonic()
        if not (self.work / "done" / "manifest.json").exists():
            shutil.rmtree(self.work / "drafts", ignore_errors=True)
            for name in ("drafts", "requests", "done/playlists", "done/rejected"):
                (self.work / name).mkdir(parents=True, exist_ok=True)
            self._deal()
            self._sort()
            answered, seconds = self._answer()
            self._close(answered, seconds, begun)
        publish(self.out)
        return json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))

    def _deal(self) -> None:
        """Rows into `dealt/`. A kill costs the whole of it: it takes seconds a million rows."""
        if (self.work / "dealt.json").exists():
            return
        shutil.rmtree(self.work / "dealt", ignore_errors=True)
        (self.work / "dealt").mkdir()
        deal(self.source, self.work / "dealt", self.shards, self.settings.n)
        write_text_atomically(self.work / "dealt.json", json.dumps({"rows": self.source.rows}))

    def _sort(self) -> None:
        """Shards into `requests/`, in parts; rows that cannot be answered into `rejected/`."""
        for shard in range(self.shards):
            path, name = dealt(self.work / "dealt", shard), f"shard-{shard:03d}.parquet"
            if not (self.work / "requests" / name).exists():
                fine, bad = sort_shard(path, self.names)
                if len(bad):
                    write_parquet(self.work / "done" / "rejected" / name, bad, self.work / "drafts")
                write_parquet(self.work / "requests" / name, fine, self.work / "drafts", self.part)
            Path(path).unlink(missing_ok=True)

    def tasks(self) -> Iterator[tuple[tuple[int, int], int]]:
        """All tasks (shard, part), and how many requests each has."""
        for shard in range(self.shards):
            footer = pq.ParquetFile(self.work / "requests" / f"shard-{shard:03d}.parquet").metadata
            for part in range(footer.num_row_groups):
                yield (shard, part), footer.row_group(part).num_rows

    def _answer(self) -> tuple[int, float]:
        """Do what is left; returns how many requests this call has answered, and in how many seconds."""
        sizes = dict(self.tasks())
        left = [task for task in sizes if not (self.work / "done" / "playlists" / name_of(*task)).exists()]
        done = sum(sizes.values()) - sum(sizes[task] for task in left)
        begun = time.monotonic()
        work = Work(
            "serving.playlist_answers:start",
            {
                "run": str(Path(self.plan["run"]["path"]).absolute()),
                "identity": self.plan["run"]["identity"],
                "work": str(self.work.absolute()),
                "names": self.names,
                "settings": asdict(self.settings),
            },
        )
        with tqdm(
            total=sum(sizes.values()), initial=done, unit=" requests", desc="playlists",
            disable=self.quiet, mininterval=1.0, smoothing=0.1,
        ) as bar:  # fmt: skip
            for task, result in self.engine.run(work, left):
                bar.update(sizes[(int(task[0]), int(task[1]))])
                self.workers[result["worker"]] = result["peak_bytes"]
        return sum(sizes[task] for task in left), time.monotonic() - begun

    def _close(self, answered: int, seconds: float, begun: float) -> None:
        """Count everything once more from the files, and write the manifest."""
        counts, files = check_and_count(self.work, [task for task, _ in self.tasks()], self.source.rows)
        call = {
            "engine": self.engine.name,
            "workers": self.engine.workers,
            "answered": answered,
            "answer_seconds": round(seconds, 2),
            "requests_per_second": round(answered / seconds, 3) if answered else None,
            "seconds": round(time.monotonic() - begun, 2),
        } | peaks(self.workers)
        manifest = {"fingerprint": fingerprint_of(self.plan)} | self.plan
        manifest |= {"counts": counts, "last_call": call, "results": files, "finished_unix_s": time.time()}
        write_text_atomically(self.work / "done" / "manifest.json", json.dumps(manifest, indent=1))


def publish(out: Path) -> None:
    """Move what is done into place; what an earlier call has moved stays."""
    done = out / WORK / "done"
    for name in RESULTS:
        if (done / name).exists():
            (done / name).rename(out / name)
            to_disk(out)
    shutil.rmtree(out / WORK)


def _begun(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Make sure that `out` is of this plan; the manifest, if it is finished."""
    if (out / "manifest.json").exists():
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        refuse_another(manifest, plan, out)
        shutil.rmtree(out / WORK, ignore_errors=True)  # a kill after the last rename leaves it
        return manifest
    if (out / WORK / "plan.json").exists():
        refuse_another(json.loads((out / WORK / "plan.json").read_text(encoding="utf-8")), plan, out)
    else:
        (out / WORK).mkdir(exist_ok=True)
        write_text_atomically(out / WORK / "plan.json", json.dumps(plan, indent=1))
    return None


def _refuse_method(run: Run, settings: Settings) -> None:
    """An unknown method is known now, not in the workers. (The resolved configuration names those that were trained.)"""
    available = [*UNTRAINED, *(method["key"] for method in run.read_config()["personalize"]["methods"])]
    if settings.method is not None and settings.method not in available:
        raise ValueError(f"this run has no method {settings.method!r}; it has {', '.join(available)}")


def _refuse_strangers(out: Path) -> None:
    """Never write among, or delete, what is not ours."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out is a folder")
    there = [name for name in RESULTS if (out / name).exists()]
    ours = (out / WORK / "plan.json").exists()
    if "manifest.json" in there and not ours:
        try:
            ours = "fingerprint" in json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        except (ValueError, OSError):
            ours = False
    if there and not ours:
        raise ValueError(
            f"{out / there[0]} is there and not of a run of playlists; give an empty or new --out"
        )


def _delete(out: Path) -> None:
    """The manifest first: without it nothing counts as finished. The plan last: with it what is left is ours."""
    (out / "manifest.json").unlink(missing_ok=True)
    for name in ("playlists", "rejected", WORK):
        shutil.rmtree(out / name, ignore_errors=True)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    with open(out / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{out} is being written by another prelude process; wait for it to end"
            ) from None
        yield


def summary(manifest: dict[str, Any], out: Path) -> str:
    """What a run has come to, in one line."""
    counts, call = manifest["counts"], manifest["last_call"]
    rate = call["requests_per_second"]
    return (
        f"{counts['requests']:,} requests: {counts['answered']:,} answered with {counts['items']:,} items"
        f" ({counts['unknown_users']:,} of unknown users), {counts['rejected']:,} rejected; "
        + (f"{rate:,.1f} requests/s, " if rate else "")
        + f"{call['seconds']:,.1f} s in the last call, at most {call['peak_bytes_sum'] / 2**30:.2f} GiB; {out}"
    )
