"""Ways to live on with a model: each is told what a night knows, and says what that took."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from serving.answering.recommender import Recommender
from serving.studies.nights.world import Nights, write


@dataclass(frozen=True)
class Took:
    """What a night took: CPU seconds and peak memory (bytes) of the process that did it, and what it said when it would not."""

    seconds: float = 0.0
    memory: int = 0
    refused: str = ""


def command(*words: str, refusal: int | None = None) -> Took:
    """A command of Prelude's in a process of its own. Raises `RuntimeError` with its last words where it fails, except with the
    exit code `refusal`.
    """
    words = (sys.executable, "-m", "serving.cli", *words)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, refusal):
        raise RuntimeError(f"{' '.join(words)}: exit code {process.returncode}: {said[-2000:]}")
    refused = said.strip()[-500:] if process.returncode else ""
    return Took(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, refused)


def train(config: Path, nights: Nights, night: int, run: Path) -> Took:
    """A run on all that was known at the beginning of a night, and its catalogue (night 0: that of the cut, without newcomers)."""
    files = run.parent / f"{run.name}-files"
    files.mkdir(parents=True, exist_ok=True)
    events = write(nights.known(night), files / "events.csv")
    items = write(nights.catalogue(night if night else -1), files / "items.csv")
    given = {"source": "files", "interactions": events, "items": items, "k_core_items": 0}
    sets = [word for name, value in given.items() for word in ("--set", f"prepare.{name}={value}")]
    return command("run", str(config), "--run", str(run), "--until", "personalize", *sets)


class Arm(ABC):
    """A way to live on."""

    name: str
    does: str  # a sentence
    sees_events: bool = True  # are events of the night itself history, as a service's are, up to the moment that is asked about?

    def __init__(self, nights: Nights, first: Path, folder: Path):
        self.nights, self.folder, self.run = nights, folder, folder / self.name.replace(" ", "_") / "run"
        if not self.run.exists():
            shutil.copytree(first, self.run)

    @abstractmethod
    def night(self, number: int) -> Took:
        """Live through the beginning of a night."""

    def file(self, kind: str, number: int) -> Path:
        """Where a night's file of some kind is."""
        return self.run.parent / f"{kind}-{number:02}.csv"

    def absorb(self, number: int) -> Took:
        """The events of the night before, by `Recommender.update`."""
        events = self.nights.during(number - 1)
        if not len(events):
            return Took()
        service, started = Recommender.load(self.run), time.process_time()
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
        words = ["refresh", str(self.run), "--items", str(items), "--method", "e2p"]
        if len(events := self.nights.during(number - 1)):
            words += ["--events", str(write(events, self.file("events", number)))]
        took = command(*words, refusal=1)
        if took.refused:  # the version of before goes on, and people's events all the same
            self.absorb(number)
        return took


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
