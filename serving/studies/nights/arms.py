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

from recsys.data.config import PrepareConfig
from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.recommender import Recommender
from serving.config.run import load_config
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
    settings = load_config(config)
    given = {"source": "files", "interactions": events, "items": items, "k_core_items": 0}
    prepare = PrepareConfig.model_validate(settings.prepare.model_dump() | given)

    def work() -> str:
        run_all(settings.model_copy(update={"prepare": prepare}), Run.create(run), "personalize")
        return ""

    return apart(work)


class Arm(ABC):
    """A way to live on."""

    name: str
    does: str  # a sentence
    sees_events: bool = True  # are events of the night itself history, as a service's are, up to the moment that is asked about?

    def __init__(self, nights: Nights, first: Path, folder: Path):
        self.nights, self.folder, self.run = nights, folder, folder / self.name.replace(" ", "_") / "run"
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

    def file(self, kind: str, number: int) -> Path:
        """Where a night's file of some kind is."""
        return self.run.parent / f"{kind}-{number:02}.csv"

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
    """The run as it was at the cut."""

    name, does, sees_events = (
        "never",
        "the run of the cut, a photograph: no event since, no item since",
        False,
    )

    def night(self, number: int) -> Took:
        return Took()


class Events(Arm):
    """Events alone."""

    name, does = "events", "the run of the cut, and `prelude update` with the events of the night before"

    def night(self, number: int) -> Took:
        return self.absorb(number)


class Refreshed(Arm):
    """Items and events."""

    name, does = (
        "refreshed",
        "`prelude refresh` with the items of today and the events of the night before; nothing is trained",
    )

    def night(self, number: int) -> Took:
        items = write(self.nights.catalogue(number), self.file("items", number))
        happened = self.nights.during(number - 1)
        events = write(happened, self.file("events", number)) if len(happened) else None
        took = apart(partial(self._refresh, items, events))
        if took.refused:  # the version of before goes on, and people's events all the same
            self.absorb(number)
        return took

    def _refresh(self, items: Path, events: Path | None) -> str:
        found = refresh(self.run, items, events, choices=Choices(method="e2p"))
        return "; ".join(f"{reason}: {why}" for reason, why in found.refused.items())

    def service(self) -> Recommender:
        """The version that serves, read anew."""
        return Recommender.load(self.run)


class Trained(Arm):
    """A full training every so many nights."""

    name, does = (
        "trained",
        "trained anew on all that is known, every so many nights; between them `prelude update`",
    )

    def __init__(self, nights: Nights, first: Path, folder: Path, config: Path, every: int):
        super().__init__(nights, first, folder)
        self.config, self.every = config, every

    def night(self, number: int) -> Took:
        if number == 0 or number % self.every:
            return self.absorb(number)
        self.run = self.folder / self.name / f"run-{number:02}"
        return train(self.config, self.nights, number, self.run)
