"""Ways to live on with a model: each is told what a night knows, and says what that took."""

from __future__ import annotations

import os
import resource
import shutil
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.recommender import Recommender
from serving.config.run import RunConfig, load_config
from serving.pipeline import run_all
from serving.refresh.refresh import Choices, refresh
from serving.studies.nights.world import Nights, write


@dataclass(frozen=True)
class Took:
    """What a night took: CPU seconds and peak memory (bytes) of the process that did it, and what it said when it would not."""

    seconds: float = 0.0
    memory: int = 0
    refused: str = ""


def apart(work: Callable[[], str]) -> Took:
    """`work` in a process of its own (a fork, which has all modules loaded), so that its memory is its own; what it returns is why
    it would not. Raises `RuntimeError` with its last words where it fails.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code, said = 0, ""
        try:
            said = work()
        except BaseException:
            code, said = 1, traceback.format_exc()
        with os.fdopen(writing, "w") as out:
            out.write(said)
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as lines:
        said = lines.read()
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(said or f"a process ended with status {status}")
    return Took(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, said)


def train(config: Path, nights: Nights, night: int, run: Path) -> Took:
    """A run on all that was known at the beginning of a night, and its catalogue (night 0: that of the cut, without newcomers)."""
    files = run.parent / f"{run.name}-files"
    files.mkdir(parents=True, exist_ok=True)
    events = write(nights.known(night), files / "events.csv")
    items = write(nights.catalogue(night if night else -1), files / "items.csv")
    values = load_config(config).model_dump()
    values["prepare"] |= {"source": "files", "interactions": events, "items": items, "k_core_items": 0}
    if nights.vectors is not None:
        values["embed"]["item_embeddings"] = write(
            nights.vectors(night if night else -1), files / "vectors.parquet"
        )
    settings = RunConfig.model_validate(values)

    def work() -> str:
        run_all(settings, Run.create(run), "personalize")
        return ""

    return apart(work)


class Arm(ABC):
    """A way to live on."""

    name: str
    sees_events: bool = True  # are events of the night itself history, as a service's are, up to the moment that is asked about?

    def __init__(self, nights: Nights, first: Path, folder: Path):
        self.nights, self.folder, self.run = nights, folder / self.name, folder / self.name / "run"
        self._methods: Methods | None = None
        if not self.run.exists():
            shutil.copytree(first, self.run)

    @abstractmethod
    def night(self, number: int) -> Took:
        """Live through the beginning of a night."""

    def service(self) -> Recommender:
        """What answers now."""
        if self._methods is None or self._methods.run.path != self.run:
            self._methods = Recommender.load(self.run).methods
        return Recommender(self._methods)

    def file(self, kind: str, number: int, suffix: str = ".csv") -> Path:
        """Where a night's file of some kind is."""
        return self.folder / f"{kind}-{number:02}{suffix}"

    def measured(self, number: int) -> Path:
        """Where it is written what a night's events were worth; what is there is done."""
        return self.file("night", number, ".parquet")

    def took(self, number: int) -> Path:
        """Where a night's `Took` is written."""
        return self.file("night", number, ".json")

    def run_of(self, number: int) -> Path:
        """The run that answers on a night."""
        return self.run

    def absorb(self, number: int) -> Took:
        """The events of the night before, by `Recommender.update`."""
        events = self.nights.during(number - 1)
        if not len(events):
            return Took()
        service, started = self.service(), time.process_time()
        service.update(list(events.itertuples(index=False, name=None)), f"night {number}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Took(time.process_time() - started, peak)


class Never(Arm):
    """The run of the cut, a photograph: no event since, no item since."""

    name, sees_events = "never", False

    def night(self, number: int) -> Took:
        return Took()


class Events(Arm):
    """The run of the cut, and `prelude update` with the events of the night before."""

    name = "events"

    def night(self, number: int) -> Took:
        return self.absorb(number)


class Refreshed(Arm):
    """`prelude refresh` with the items (and vectors) of today and the events of the night before; nothing is trained."""

    name = "refreshed"

    def night(self, number: int) -> Took:
        files = {"items": write(self.nights.catalogue(number), self.file("items", number))}
        happened = self.nights.during(number - 1)
        if len(happened):
            files["events"] = write(happened, self.file("events", number))
        if self.nights.vectors is not None:
            files["item_embeddings"] = write(
                self.nights.vectors(number), self.file("vectors", number, ".parquet")
            )
        took = apart(partial(self._refresh, files))
        if took.refused:  # the version of before goes on, and people's events all the same
            self.absorb(number)
        return took

    def _refresh(self, files: dict[str, Path]) -> str:
        found = refresh(
            self.run,
            files.get("items"),
            files.get("events"),
            item_embeddings=files.get("item_embeddings"),
            choices=Choices(method="e2p"),
        )
        return "; ".join(f"{reason}: {why}" for reason, why in found.refused.items())

    def service(self) -> Recommender:
        """The version that serves, read anew."""
        return Recommender.load(self.run)


class Trained(Arm):
    """Trained anew on all that is known, every so many nights; between them `prelude update`."""

    name = "trained"

    def __init__(self, nights: Nights, first: Path, folder: Path, config: Path, every: int):
        super().__init__(nights, first, folder)
        self.config, self.every = config, every

    def night(self, number: int) -> Took:
        is_due = number > 0 and number % self.every == 0
        return train(self.config, self.nights, number, self.run) if is_due else self.absorb(number)

    def run_of(self, number: int) -> Path:
        last = number - number % self.every
        return self.folder / (f"run-{last:02}" if last else "run")
