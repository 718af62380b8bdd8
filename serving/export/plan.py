"""What of a finished run is exported, so that it answers: methods, artifacts, and the configuration of those.

All artifacts of the stages that answers depend on come along, but for those named here as training's alone; a
new artifact of such a stage is exported without a word here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.align.config import AlignRow
from llm.methods.base import MethodConfig
from llm.methods.lora import MTLoraConfig
from llm.methods.stage2 import OUTSIDE
from llm.stage1.records import NAME as RECORDS
from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.paths import RunError
from recsys.artifacts.settings import NOT_EXPORTED
from recsys.artifacts.user_rows import is_nothing_but_rows
from recsys.run import Run
from serving.answering.untrained import NEEDS_USERS, WHY_USERS, untrained
from serving.config.combine import CombineConfig, product_key
from serving.config.run import RunConfig
from serving.config.truth import config_of, hash_of_folder, models_named
from serving.playlists.plan import IF_THERE, SERVED

# Artifacts of training alone. The quantizer and what stands before it give new items their codes, which is
# done before training
FOR_TRAINING = {
    "embed": ("curves.json",),
    "tokenize": ("curves.json", "inputs.safetensors", "quality.json", "quantizer.json", "quantizer.safetensors"),
    "adapt": ("curves.json",),
    "personalize": ("curves.json",),
    "align": ("curves.json",),
}  # fmt: skip
REPORTS = {"personalize": ("personalize.json", "methods"), "align": ("align.json", "rows")}
LISTS = "engagement", "lists.parquet"  # of which a P_u of the stage `align` knows whose row is trained


@dataclass(frozen=True)
class ExportPlan:
    """What an export holds, before anything is written."""

    config: dict[str, Any]  # as config.yaml will have it
    artifacts: dict[str, list[str]]  # stage -> names
    outside: dict[str, Path]  # names of copies of outside files -> where those are
    methods: list[str]  # keys that the exported run answers with
    left_out: list[str]  # what is not exported, a sentence each
    without_users: bool
    models: dict[str, str]  # folders of encoders that methods read with -> their hash


def plan_export(run: Run, wanted: Sequence[str] | None = None, without_users: bool = False) -> ExportPlan:
    """`wanted`: keys of trained methods, rows of `align` and products to take along; None: all.

    What they are built on comes with them, and so do the products of the generators that are there.

    Raises `ValueError` for a key that the run has not, or that is nothing without users, and `RunError` for
    an unfinished run.
    """
    before = run.exported() or {}
    without_users = without_users or before.get("without_users", False)
    config = config_of(run)
    trained = [method for method in config.personalize.methods if method.is_trained]
    rows = [] if run.record("align") is None else list(config.align.rows)
    _check(run, wanted, config, rows, without_users)
    wanted = _with_generators(wanted, config)
    methods = [] if run.record("personalize") is None else _wanted(trained, wanted)
    rows = _wanted(rows, wanted)
    chosen: list[MethodConfig | AlignRow] = [*methods, *rows]
    empty = [one.key for one in chosen if without_users and _is_of_users(run, config, one)]
    if named := set(empty) & set(wanted or ()):
        raise ValueError(
            f"--method {sorted(named)[0]} is nothing but rows of users; leave --without-users or the method "
            "out"
        )
    methods = _with_base([method for method in methods if method.key not in empty], trained)
    rows = _with_snapshots([row for row in rows if row.key not in empty], config)
    artifacts = {
        stage: names
        for stage in (*SERVED, *IF_THERE)
        if (names := _artifacts(run, config, stage, methods, rows)) is not None
        and not (stage == "align" and not rows)
        and not (stage == "combine" and not _has_products(run, config, without_users))
    }
    if not without_users and any(_has_user_state(row.method) for row in rows):
        artifacts[LISTS[0]] = [LISTS[1]]
    values = config.model_dump(mode="json")
    chosen = [*methods, *rows]
    keys = {one.key for one in chosen}
    outside = _narrow(values, config, keys, bool(rows), run, without_users)
    left_out = _left_out(run, config, artifacts, keys, empty, without_users)
    reading = [method.key for method in config.personalize.methods if not method.is_trained]
    answering = [
        *_untrained(config, without_users),
        *reading,
        *(one.key for one in chosen),
    ]
    if "combine" in artifacts:
        products = CombineConfig.model_validate(values["combine"])
        answering += products.product_keys()
        whole = config.combine is not None and products.generators == config.combine.generators
        if whole and run.read_json("combine", "combine.json").get("query_products"):
            answering += products.query_keys()
    return ExportPlan(
        values, artifacts, outside, answering, [*before.get("left_out", []), *left_out], without_users,
        _models(values, before.get("models", {})),
    )  # fmt: skip


def files_of(run: Run, stage: str, key: str, seed: int) -> list[str]:
    """The artifacts of one replica of a method or row."""
    record = run.record(stage) or {"artifacts": {}}
    return [name for name in record["artifacts"] if name.startswith((f"{key}-{seed}.", f"{key}-{seed}/"))]


def _untrained(config: RunConfig, without_users: bool) -> dict[str, str]:
    embed = config.embed
    return untrained(embed.sasrec is not None, embed.item_knn is not None, without_users)


# -- methods -------------------------------------------------------------------------------------------------


def _check(
    run: Run, wanted: Sequence[str] | None, config: RunConfig, rows: Sequence[AlignRow], without_users: bool
) -> None:
    products = config.combine.product_keys() if config.combine and _has_products(run, config, False) else []
    known = [*(method.key for method in config.personalize.methods), *(row.key for row in rows), *products]
    for key in wanted or ():
        if without_users and (
            key == NEEDS_USERS or (key in products and not _has_products(run, config, True))
        ):
            what = "" if key == NEEDS_USERS else f" has the expert {NEEDS_USERS}"
            raise ValueError(f"--method {key}{what}: {WHY_USERS}; leave --without-users or the method out")
        if key not in known and key not in _untrained(config, without_users):
            raise ValueError(f"--method {key}: {run.path} has no such method; it has {', '.join(known)}")


def _has_products(run: Run, config: RunConfig, without_users: bool) -> bool:
    """Has the run products of experts, and can its export have them?"""
    if config.combine is None or run.record("combine") is None:
        return False
    return not (without_users and NEEDS_USERS in config.combine.experts)


def _with_generators(wanted: Sequence[str] | None, config: RunConfig) -> Sequence[str] | None:
    """With the generators of the products among them."""
    if wanted is None or config.combine is None:
        return wanted
    return [*wanted, *(key for key in config.combine.generators if product_key(key) in wanted)]


def _wanted(all_of_them: Sequence[Any], wanted: Sequence[str] | None) -> list[Any]:
    return [one for one in all_of_them if wanted is None or one.key in wanted]


def _with_base(methods: list[MethodConfig], trained: Sequence[MethodConfig]) -> list[MethodConfig]:
    """With the MT-LoRA that some of them start from, in the run's order."""
    base = next((method for method in trained if isinstance(method, MTLoraConfig)), None)
    needed = any(getattr(method, "base", None) == "mt_lora" for method in methods)
    return [method for method in trained if method in methods or (needed and method is base)]


def _with_snapshots(rows: list[AlignRow], config: RunConfig) -> list[AlignRow]:
    """With the lm rows that some of them start from, without which their settings would be refused."""
    needed = [config.align.lm_row(row) for row in rows if config.align.needs_snapshot(row)]
    return [row for row in config.align.rows if row in rows or row in needed]


def _files(run: Run, config: RunConfig, one: MethodConfig | AlignRow) -> list[tuple[str, str]]:
    """(stage, artifact) of the replica that serves. Raises `RunError` where training has not come to it."""
    stage, settings = (
        ("align", config.align) if isinstance(one, AlignRow) else ("personalize", config.personalize)
    )
    files = files_of(run, stage, one.key, settings.seeds[0])
    if not files:
        raise RunError(
            f"stage '{stage}' of {run.path} has not trained {one.key}; run: prelude {stage} {run.path}"
        )
    return [(stage, name) for name in files]


def _is_of_users(run: Run, config: RunConfig, one: MethodConfig | AlignRow) -> bool:
    return all(is_nothing_but_rows(run.artifact(stage, name)) for stage, name in _files(run, config, one))


def _parts(method: Any) -> tuple[Any, ...]:
    return (method, *getattr(method, "parts", ()))


def _has_user_state(method: Any) -> bool:
    return any(getattr(part, "user_state", False) for part in _parts(method))


# -- artifacts -----------------------------------------------------------------------------------------------


def _artifacts(
    run: Run, config: RunConfig, stage: str, methods: Sequence[MethodConfig], rows: Sequence[AlignRow]
) -> list[str] | None:
    """Names of a stage's artifacts to export; None where the run has no such stage.

    Raises `RunError` for one it must have.
    """
    record = run.record(stage)
    if record is None:
        if stage in SERVED:
            raise RunError(f"{run.path} has no finished stage '{stage}'; run: prelude {stage} {run.path}")
        return None
    names = [name for name in record["artifacts"] if name not in FOR_TRAINING.get(stage, ())]
    if stage not in REPORTS:
        return names
    chosen = rows if stage == "align" else methods
    settings: Any = config.align if stage == "align" else config.personalize
    everyone = settings.rows if stage == "align" else settings.methods
    owned = {
        name for one in everyone for seed in settings.seeds for name in files_of(run, stage, one.key, seed)
    }
    kept = {name for one in chosen for _, name in _files(run, config, one)}
    parts = [part for one in chosen for part in _parts(getattr(one, "trained", one))]
    if not any(getattr(part, "records", False) for part in parts):
        owned.add(RECORDS)  # P_q's alone
    return [name for name in names if name in kept or name not in owned]


# -- configuration -------------------------------------------------------------------------------------------


def _narrow(
    values: dict[str, Any], config: RunConfig, keys: set[str], has_rows: bool, run: Run, without_users: bool
) -> dict[str, Path]:
    """Narrow the configuration, in place, to what is exported;
    returns copies of outside files and where those lie.
    """
    kept = {method.key for method in config.personalize.methods if not method.is_trained} | keys
    values["personalize"]["methods"] = [m for m in values["personalize"]["methods"] if m["key"] in kept]
    if has_rows:
        values["align"]["rows"] = [row for row in values["align"]["rows"] if row["key"] in keys]
    if config.combine is not None:
        generators = [key for key in config.combine.generators if key in {"no_context", *kept}]
        values["combine"]["generators"] = generators
    for stage in ("personalize", "align"):
        values[stage]["seeds"] = values[stage]["seeds"][:1]
    values["engagement"] = None
    if without_users:
        values["example"]["user"] = None
    outside: dict[str, Path] = {}
    for place in (values["personalize"]["methods"], values["align"]["rows"] if has_rows else []):
        _rename_outside(place, run, without_users, outside)
    return outside


def _rename_outside(place: Any, run: Run, without_users: bool, outside: dict[str, Path]) -> None:
    """Summaries are a file of the user's own: their copy is named by what it holds.

    They are of users, and go with them.
    """
    if isinstance(place, list):
        for one in place:
            _rename_outside(one, run, without_users, outside)
    elif isinstance(place, dict):
        for one in place.values():
            _rename_outside(one, run, without_users, outside)
        if place.get("summaries") and without_users:
            place["summaries"] = None
        elif place.get("summaries"):
            path = Path(place["summaries"])
            if run.record(OUTSIDE) is not None:
                path, name = run.artifact(OUTSIDE, str(path)), str(path)
            elif path.is_file():
                name = f"{sha256_of(path)[:12]}-{path.name}"
            else:
                raise ValueError(f"{path}: no such file; the run's methods read summaries from it")
            outside[name], place["summaries"] = path, name


def _models(values: dict[str, Any], before: dict[str, str]) -> dict[str, str]:
    """Hashes of the folders of encoders that the exported methods read with (`before`: those that an export has already).

    The names of encoders that made vectors, which come along, are taken out of the configuration, in place: nothing that
    nobody vouches for is named there. Raises `ValueError` for a folder that is not there.
    """
    for section in (values["embed"], values["prepare"]["user_split"], values["music"]):
        if models_named(section):
            section["text_encoder"] = NOT_EXPORTED
    hashes = {}
    for place, model in models_named(values):
        if model not in before and not Path(model).is_dir():
            raise ValueError(f"{place} is {model!r}, which is no folder here, so its hash cannot be exported")
        hashes[model] = before.get(model) or hash_of_folder(Path(model))
    return hashes


def _left_out(
    run: Run,
    config: RunConfig,
    artifacts: dict[str, list[str]],
    keys: set[str],
    empty: Sequence[str],
    without_users: bool,
) -> list[str]:
    stages = sorted(path.parent.name for path in run.path.glob("*/stage.json"))
    gone = [stage for stage in stages if stage not in artifacts and stage != OUTSIDE]
    said = []
    if gone:
        said.append(f"Stages: {', '.join(gone)}.")
    files = [
        f"{stage}/{name}"
        for stage in artifacts
        for name in FOR_TRAINING.get(stage, ())
        if name in (run.record(stage) or {"artifacts": {}})["artifacts"]
    ]
    if files:
        said.append(f"Of training alone: {', '.join(files)}; checkpoints, report.html and results.json.")
    trained = [method.key for method in config.personalize.methods if method.is_trained]
    trained += [row.key for row in config.align.rows] if run.record("align") is not None else []
    if others := [key for key in trained if key not in keys and key not in empty]:
        said.append(f"Methods that were not asked for: {', '.join(others)}.")
    if max(len(config.personalize.seeds), len(config.align.seeds) if "align" in artifacts else 1) > 1:
        said.append("All trained replicas of a method but the first, which serves.")
    if without_users and not (run.exported() or {}).get("without_users"):
        said += WITHOUT_USERS
        if empty:
            said.append(f"Methods that are nothing but rows of users: {', '.join(empty)}.")
        with_it = [NEEDS_USERS]
        if config.combine is not None and "combine" in gone:
            with_it += config.combine.product_keys()
        said.append(f"{', '.join(with_it)}: {WHY_USERS}.")
    return said


WITHOUT_USERS = (
    "Users: every id and group; all events, so all histories; all queries; feedback that was absorbed; "
    "summaries; user vectors "
    "that were brought; rows of users in methods (P_u), of which one row of zeros is left.",
    "Nobody is known to the exported run: whoever is asked about without a history is a cold start. Weights "
    "and item vectors that "
    "were trained on everyone stay, and so do, of each item, the number of its training events and its place "
    "in the order of last "
    "events; of times, the last event's alone, which is the run's clock.",
)
