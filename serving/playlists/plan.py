"""The plan of a playlist run: what it was begun with, so that it goes on with nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recsys.artifacts.manifest import refuse_stale, stale
from recsys.artifacts.paths import RunError
from recsys.artifacts.settings import differences, refuse
from recsys.run import Run
from serving.answering import limits
from serving.answering.ordering import check_order
from serving.answering.untrained import is_of_nobody, no_such_method, untrained
from serving.config.combine import CombineConfig
from serving.playlists.requests import Source
from serving.playlists.shards import part_of, shards_of
from serving.state.place import file_of, own_state

FORMAT = 2
SERVED = ("prepare", "embed", "tokenize", "adapt")  # stages that an answer depends on
# and these, where the run has them: methods, rows of labelled lists, products
IF_THERE = ("personalize", "align", "combine")


@dataclass(frozen=True)
class Settings:
    """What the bytes of the playlists depend on, beside the run and the requests."""

    n: int = 30  # items, where a request does not say
    method: str | None = None  # None: e2p where the run has it, else no_context
    strength: float = 1.0  # 0 to 1: how much of the method's soft tokens and updates is used
    temperature: float = 1.0  # 0: best first; above: draws without replacement
    seed: int = 0  # of the draws
    sequence: bool = False  # each item of a list chosen after those before it
    # column of the catalogue -> at most so many items of a list that share a value
    caps: dict[str, int] | None = None
    order: str = "as made"  # of a finished list: serving.answering.ordering.Order
    batch: int = 32  # requests a micro-batch
    # MiB that a micro-batch may take beside the weights; it is split where it would take more
    memory_mb: int = 256

    def __post_init__(self) -> None:
        for name, value, why in (
            ("n", self.n, limits.wrong_n(self.n)),
            ("strength", self.strength, limits.wrong_strength(self.strength)),
            ("temperature", self.temperature, limits.wrong_temperature(self.temperature)),
        ):
            if why is not None:
                raise ValueError(f"--{name} {value}: {why}")
        check_order(self.order)
        if self.batch < 1:
            raise ValueError(f"--batch {self.batch}: a micro-batch has at least one request")
        if self.memory_mb < 1:
            raise ValueError(f"--memory-mb {self.memory_mb}: expected at least 1 MiB")


def identity_of(run: Run, absorbed: int, row: int | None = None) -> str:
    """A hash of all that a run answers with: its configuration, artifacts, feedback up to the event `absorbed`, and of it the rows of P_u
    up to `row`.
    """
    made: dict[str, Any] = {"config": run.read_config()}
    for stage in (*SERVED, *IF_THERE):
        if record := run.record(stage):
            made[stage] = record["artifacts"]
        elif stage in SERVED:
            raise RunError(f"{run.path} has no finished stage '{stage}'; run: prelude {stage} {run.path}")
    if absorbed:
        from serving.state.histories import identity

        state = own_state(run.home)
        made["live"] = None if state is None else identity(state, absorbed, row)
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def has_clock(run: Run) -> bool:
    """Are the run's times those of a clock, and not places in an order?"""
    prepared = run.record("prepare") is not None and run.read_json("prepare", "prepare.json")
    return not prepared or prepared["time"] == "unix_seconds"


def absorbed_by(run: Run) -> tuple[int, int]:
    """Up to which event the run has absorbed feedback, and up to which change of its state it has learned of it; 0: none."""
    if not file_of(run.home).exists():
        return 0, 0
    from serving.state.events import last_event
    from serving.state.lists import last_change

    state = own_state(run.home)
    return (0, 0) if state is None else (last_event(state), last_change(state))


def refuse_impossible(run: Run, settings: Settings) -> None:
    """What no worker could answer is known now.

    Raises `ValueError` for a method or capped column that the run has not, and for a list in sequence of a
    method that only ranks. (As `serving.answering.methods` would, which loads torch.)
    """
    config, method = run.read_config(), settings.method
    _refuse_other_settings(run, config)
    of_nobody = is_of_nobody(run)
    embed = config["embed"]
    ranking = untrained(embed.get("sasrec") is not None, embed.get("item_knn", {}) is not None, of_nobody)
    available = [*ranking, *(row["key"] for row in config["personalize"]["methods"])]
    if run.record("align") is not None:
        available += [row["key"] for row in config["align"]["rows"]]
    products = products_of(run, config)
    available += products
    if method is not None and method not in available:
        raise ValueError(no_such_method(method, available, of_nobody))
    if settings.sequence and method in {*ranking, *products} - {"no_context"}:
        raise ValueError(
            f"{ranking.get(method, method)} ranks items one by one and makes no list in sequence; choose a "
            "method that generates "
            "(such as e2p or no_context), or leave --sequence out"
        )
    if settings.caps:
        from recsys.data.caps import Caps  # scipy and pandas: only where they are needed
        from recsys.data.catalogue import Catalogue

        Caps(Catalogue.load(run.artifact("prepare", "items.parquet").parent), settings.caps)


def _refuse_other_settings(run: Run, config: dict[str, Any]) -> None:
    """Raises `RunError` where the configuration, as it is written, is not what stages were made from.

    (Workers compare it once more with all defaults filled in: `serving.config.truth`, which loads torch.)
    """
    exported, found = run.exported() is not None, []
    for stage in (*SERVED, *IF_THERE):
        record, now = run.record(stage), config.get(stage)
        if record is not None and isinstance(now, dict):
            found += differences(stage, record["made_from"]["config"], now, narrowed=exported, whole=False)
    refuse(found, run.path, exported)
    if not exported:
        stages = (*SERVED, *IF_THERE)
        refuse_stale(stale({stage: run.record(stage) for stage in stages}, stages), run.path)


def products_of(run: Run, config: dict[str, Any]) -> list[str]:
    """Keys of the products of experts that a run answers with."""
    if config.get("combine") is None or run.record("combine") is None:
        return []
    settings = CombineConfig.model_validate(config["combine"])
    reads_words = bool(run.read_json("combine", "combine.json").get("query_products"))
    return settings.product_keys() + (settings.query_keys() if reads_words else [])


def plan_of(
    run: Run, source: Source, settings: Settings, absorbed: tuple[int, int | None] | None = None
) -> dict[str, Any]:
    """What these playlists are made from, as JSON: the same for the same inputs, whatever the engine.

    `absorbed`: of feedback up to which event and row (`absorbed_by`); default: of all. What a run absorbs or learns later is left out by
    all workers.
    """
    seq, row = absorbed_by(run) if absorbed is None else absorbed
    identity = identity_of(run, seq, row)
    return {
        "format": FORMAT,
        "run": {"path": str(run.path), "identity": identity, "absorbed": seq, "row": row},
        "settings": asdict(settings),
        "requests": {"path": str(source.path), "rows": source.rows},
        "cut": {"shards": shards_of(source.rows), "part": part_of(source.rows, settings.batch)},
        "files": {
            file.name: {"bytes": file.size_bytes, "rows": file.rows, "footer_sha256": file.footer_sha256}
            for file in source.files
        },
    }


def fingerprint_of(plan: dict[str, Any]) -> str:
    """A hash of what decides the result; where the run and the requests lie does not."""
    decides = {key: plan[key] for key in ("format", "settings", "cut", "files")} | {
        "run": plan["run"]["identity"]
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def refuse_another(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Raise `ValueError` saying what differs, if `out` was begun with another plan."""
    if fingerprint_of(before) == fingerprint_of(now):
        return
    differs = [
        f"{name} was {before['settings'].get(name)}, is {value}"
        for name, value in now["settings"].items()
        if before["settings"].get(name) != value
    ]
    if before["run"]["identity"] != now["run"]["identity"]:
        differs.append(f"the run (was {before['run']['path']}, is {now['run']['path']}) has other artifacts")
    old, new = before["files"], now["files"]
    for what, names in (
        ("is new", new.keys() - old.keys()),
        ("is gone", old.keys() - new.keys()),
        ("has changed", {name for name in old.keys() & new.keys() if old[name] != new[name]}),
    ):
        if names:
            more = f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
            differs.append(f"the request file {min(names)}{more} {what}")
    raise ValueError(
        f"{out} was begun with something else: {'; '.join(differs) or 'another version of Prelude'}. "
        "Give another --out, or begin again with --restart, which deletes the playlists in it"
    )
