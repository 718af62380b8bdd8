"""What is measured: the commands of a run over a made world, in order, each with its arguments."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

PRELUDE = ("-m", "serving.cli")
START = "start"  # the imports of a command, which every other stage begins with
STAGES = (
    START,
    "world",
    "prepare",
    "embed",
    "tokenize",
    "adapt",
    "personalize",
    "combine",
    "evaluate",
    "load",
    "playlists",
)
OPTIONAL = ("combine",)  # measured where the configuration has it


@dataclass(frozen=True)
class Size:
    """One size of world. `playlists` is how many requests are answered, whatever the size."""

    events: int
    users: int
    items: int
    requests: int

    @property
    def name(self) -> str:
        return f"{self.events:g}-{self.users:g}-{self.items:g}"


def default_size(events: int, requests: int) -> Size:
    """Ten events a user, and as many items as users: at 1e7 events a million of both."""
    return Size(events, max(events // 10, 2), max(events // 10, 2), requests)


def command(stage: str, size: Size, folder: Path, config: Path, method: str) -> list[str]:
    """What runs `stage` in `folder`, which has `world/` and `run/`: a command line for a process of its own."""
    world, run = str(folder / "world"), str(folder / "run")
    if stage == START:
        return [sys.executable, "-c", "import serving.pipeline"]
    if stage == "world":
        sizes = ("--users", size.users, "--items", size.items, "--events", size.events)
        more = ("--queries", size.events // 100, "--requests", size.requests, "--out", world)
        return [sys.executable, "-m", "serving.bench.worlds", *map(str, (*sizes, *more))]
    if stage == "load":
        return [sys.executable, "-m", "serving.bench.growth.load", run, method]
    if stage == "playlists":
        asked = ("--requests", f"{world}/requests", "--out", str(folder / "playlists"), "--restart")
        return [sys.executable, *PRELUDE, "playlists", run, *asked, "--method", method, "--workers", "1"]
    given = ["--config", str(config)]
    for kind in ("interactions", "items", "queries"):
        given += ["--set", f"prepare.{kind}={world}/{kind}"]
    return [sys.executable, *PRELUDE, stage, run, *given, "--set", "prepare.source=files"]
