"""Playlists for millions of requests, from a folder of Parquet to a folder of Parquet: `prelude playlists`.

    DIR/
      playlists/part-000-00000.parquet …   request_id, rank (1 is first), item_id, score; by request id
      rejected/…                           request_id, file, row (1-based), reason
      manifest.json                        counts, the sha256 of every file, what it was made from, how fast
      .partial/                            while it runs: plan.json, and dealt/, requests/, drafts/, done/ in
                                           a folder of the plan's

A run has four phases, and each begins where a kill left it: *deal* (rows to shards, anew), *sort* (a shard at
a time), *answer* (a part at a time: a finished file is a finished task) and *close* (count everything, then
rename `done/` into place). The bytes of `playlists/` depend on the set of requests, the run and the settings
alone: see `serving.playlists.shards`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recsys.artifacts.paths import inside
from recsys.artifacts.rewrite import write_text_atomically
from recsys.progress import Progress
from recsys.run import Run
from serving.engines.base import Engine, Work
from serving.playlists.close import check_and_count, peaks
from serving.playlists.folder import begin, locked, publish, refuse_strangers, unfinished_plan, work_folder
from serving.playlists.plan import Settings, fingerprint_of, has_clock, plan_of, refuse_impossible
from serving.playlists.requests import Source
from serving.playlists.shards import deal, dealt, into_place, name_of, sort_shard


def playlists(
    run: str | Path,
    requests: str | Path,
    out: str | Path,
    engine: Engine,
    settings: Settings | None = None,
    restart: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Answer all of `requests` (a Parquet file or a folder of them) into the folder `out`;
    returns the manifest.

    Called again after a kill it goes on, and after the end it does nothing. `restart` deletes what `out` has
    of a run of playlists first. Raises `DataError` for files that cannot be read and `ValueError` for an
    `out` that was begun with something else, or is in use, and for settings that the run cannot answer with;
    all of it before anything is written or deleted.
    """
    settings, out, requests = settings or Settings(), Path(out), Path(requests)
    opened = Run.serving(run)
    if requests.is_dir() and out.resolve().is_relative_to(requests.resolve()):
        raise ValueError(f"{out} lies in {requests}, whose files are the requests; give another --out")
    source = Source(requests, has_clock(opened))
    refuse_impossible(opened, settings)
    refuse_strangers(out)
    plan_of(opened, source, settings)  # raises for a run that cannot answer, before anything is touched
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        before = None if restart else unfinished_plan(out)
        absorbed = None if before is None else (before["run"].get("absorbed", 0), before["run"].get("row"))
        plan = plan_of(opened, source, settings, absorbed)
        if (finished := begin(out, plan, restart)) is not None:
            return finished
        return _Job(out, plan, source, settings, engine, quiet).run()


class _Job:
    """A run of playlists, begun or gone on with. The folder is locked, and the plan in it is this one."""

    def __init__(
        self, out: Path, plan: dict, source: Source, settings: Settings, engine: Engine, quiet: bool
    ):
        self.out, self.plan, self.source = out, plan, source
        self.settings, self.engine, self.quiet = settings, engine, quiet
        self.work = work_folder(out, plan)
        self.shards, self.part = plan["cut"]["shards"], plan["cut"]["part"]
        self.names = [file.name for file in source.files]
        self.workers: dict[str, int] = {}  # peak bytes of each worker of this call

    def run(self) -> dict[str, Any]:
        begun = time.monotonic()
        if not (self.work / "done" / "manifest.json").exists():
            if (self.work / "drafts").exists():
                shutil.rmtree(self.work / "drafts")
            for name in ("drafts", "requests", "done/playlists", "done/rejected"):
                inside(self.work, name, self.work).mkdir(parents=True, exist_ok=True)
            self._deal()
            self._sort()
            answered, seconds = self._answer()
            self._close(answered, seconds, begun)
        publish(self.out, self.work)
        return json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))

    def _deal(self) -> None:
        """Rows into `dealt/`, those that cannot be answered into `rejected/`; a kill costs all of it."""
        if (self.work / "dealt.json").exists():
            return
        folder = inside(self.work, "dealt", self.work)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        with self._bar("reading", " requests", self.source.rows) as bar:
            for rows in deal(self.source, folder, self.shards, self.settings.n):
                bar.update(rows)
        if (folder / "rejected.parquet").exists():
            into_place(folder / "rejected.parquet", self.work / "done" / "rejected" / "as-read.parquet")
        write_text_atomically(self.work / "dealt.json", json.dumps({"rows": self.source.rows}))

    def _sort(self) -> None:
        """Shards into `requests/`, in parts; rows that repeat or contradict others into `rejected/`."""
        drafts = self.work / "drafts"
        with self._bar("sorting", " shards", self.shards) as bar:
            for shard in range(self.shards):
                path, name = dealt(self.work / "dealt", shard), f"shard-{shard:03d}.parquet"
                if not (self.work / "requests" / name).exists():
                    asked, bad = drafts / name, drafts / f"rejected-{name}"
                    if sort_shard(path, self.names, asked, bad, self.part):
                        into_place(bad, self.work / "done" / "rejected" / name)
                    into_place(asked, self.work / "requests" / name)
                Path(path).unlink(missing_ok=True)
                bar.update()

    def tasks(self) -> Iterator[tuple[tuple[int, int], int]]:
        """All tasks (shard, part), and how many requests each has."""
        for shard in range(self.shards):
            rows = pq.ParquetFile(self.work / "requests" / f"shard-{shard:03d}.parquet").metadata.num_rows
            for part, first in enumerate(range(0, rows, self.part)):
                yield (shard, part), min(self.part, rows - first)

    def _bar(self, what: str, unit: str, total: int, done: int = 0) -> Progress:
        """Progress with rate and time left."""
        return Progress(
            total=total,
            initial=done,
            unit=unit,
            desc=what,
            disable=self.quiet,
            mininterval=1.0,
            smoothing=0.1,
        )

    def _answer(self) -> tuple[int, float]:
        """Do what is left; returns how many requests this call has answered, and in how many seconds."""
        sizes = dict(self.tasks())
        left = [task for task in sizes if not (self.work / "done" / "playlists" / name_of(*task)).exists()]
        done = sum(sizes.values()) - sum(sizes[task] for task in left)
        begun = time.monotonic()
        work = Work(
            "serving.playlists.answers:start",
            {
                "run": str(Path(self.plan["run"]["path"]).absolute()),
                "identity": self.plan["run"]["identity"],
                "absorbed": self.plan["run"]["absorbed"],
                "row": self.plan["run"]["row"],
                "work": str(self.work.absolute()),
                "names": self.names,
                "part_requests": self.part,
                "settings": asdict(self.settings),
            },
        )
        with self._bar("playlists", " requests", sum(sizes.values()), done) as bar:
            for task, result in self.engine.run(work, left):
                bar.update(sizes[(int(task[0]), int(task[1]))])
                self.workers[result["worker"]] = result["peak_bytes"]
        return sum(sizes[task] for task in left), time.monotonic() - begun

    def _close(self, answered: int, seconds: float, begun: float) -> None:
        """Count everything once more from the files, and write the manifest."""
        sizes = dict(self.tasks())
        with self._bar("counting", " requests", sum(sizes.values())) as bar:
            counts, files = check_and_count(
                self.work, list(sizes), self.part, self.source.rows, lambda task: bar.update(sizes[task])
            )
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
