"""One truth about a run: its configuration says of every finished stage what that stage was made from, or it is not used.

`config.yaml` is written before the stages and apart from them, so it can come to say something else: a changed setting of a
stage that was not run again, an edit, a flipped byte. Who answers from a run, or measures it, reads its configuration here.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llm.methods.stage2 import OUTSIDE
from recsys.artifacts.manifest import refuse_stale, sha256_of, stale
from recsys.artifacts.paths import RunError
from recsys.artifacts.settings import NOT_EXPORTED, Difference, differences, refuse
from recsys.run import Run
from serving.config.run import RunConfig, load_config
from serving.config.sections import SECTIONS

# Models that come with a package, or with the run itself
PACKAGED = ("smollm2", "tiny-random", "scratch", "minilm", "backbone", NOT_EXPORTED)
MODELS = ("encoder", "text_encoder")  # settings that name a model


def config_of(run: Run, changes: Iterable[str] = ()) -> RunConfig:
    """The run's configuration, `changes` applied.

    Raises `RunError` where a section is not what its stage was made from, or a stage is out of date, and for an exported run that names
    what its manifest does not hash.
    """
    config = load_config(None, changes, base=run.read_config())
    refuse_other_settings(run, config)
    if run.exported() is not None:
        _refuse_unhashed(run, config)
    return config


def refuse_other_settings(run: Run, config: RunConfig, sections: Sequence[str] = SECTIONS) -> None:
    """Raises `RunError` naming each setting of these sections that is not what its finished stage was made from, and each stage of them
    that was made from other artifacts than the run has now.
    """
    refuse(settings_changed(run, config, sections), run.path, run.exported() is not None)
    refuse_stale(out_of_date(run, sections), run.path)


def out_of_date(run: Run, sections: Sequence[str] = SECTIONS) -> list[tuple[str, str]]:
    """(stage, need) for each of these stages that was made from other artifacts of another than the run has now.

    An exported run has a part of the artifacts, which its own sums hold together.
    """
    return (
        [] if run.exported() is not None else stale({name: run.record(name) for name in SECTIONS}, sections)
    )


def settings_changed(run: Run, config: RunConfig, sections: Sequence[str] = SECTIONS) -> list[Difference]:
    """Settings that are not what their finished stage was made from, by stage."""
    found = []
    for name in sections:
        record, section = run.record(name), getattr(config, name)
        if record is None or section is None:  # a section that is off is read by nobody
            continue
        then = record["made_from"]["config"]
        # of a stage that an older Prelude made: what it could not set was as the defaults are
        with contextlib.suppress(ValidationError):
            then = type(section).model_validate(then).model_dump(mode="json")
        now = section.model_dump(mode="json")
        found += differences(name, then, now, narrowed=run.exported() is not None)
    return found


# -- exported runs ---------------------------------------------------------------------------------------------------


def named(values: Any, settings: Collection[str], place: str = "") -> Iterator[tuple[str, str]]:
    """(dotted place, value) of every setting of these names that has a value, in a configuration as JSON has it."""
    if isinstance(values, dict):
        for key, value in values.items():
            if key in settings and isinstance(value, str):
                yield f"{place}{key}", value
            yield from named(value, settings, f"{place}{key}.")
    elif isinstance(values, list):
        for at, value in enumerate(values):
            label = value.get("key", at) if isinstance(value, dict) else at
            yield from named(value, settings, f"{place.removesuffix('.')}[{label}].")


def models_named(values: Any, settings: Collection[str] = MODELS) -> list[tuple[str, str]]:
    """(dotted place, name) of every model in a configuration that comes with no package."""
    return [(place, model) for place, model in named(values, settings) if model not in PACKAGED]


def hash_of_folder(folder: Path) -> str:
    """Hex sha256 over the names and hashes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    told = "".join(f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    return hashlib.sha256(told.encode()).hexdigest()


def _refuse_unhashed(run: Run, config: RunConfig) -> None:
    """An exported run names no model and no file whose hash it does not have."""
    said, values = run.exported() or {}, config.model_dump(mode="json")
    again = f"; {run.path} is not used. Export the run again from where it was made"
    backbone, name = said.get("backbone", {}), config.adapt.backbone.name
    if name != backbone.get("name") or run.read_json("adapt", "adapt.json")["backbone_hash"] != backbone.get(
        "sha256"
    ):
        raise RunError(
            f"adapt.backbone.name is {name!r}, whose hash {run.path}/manifest.json does not have{again}"
        )
    hashes = said.get("models", {})
    for setting, model in models_named(values):
        if model not in hashes:
            raise RunError(
                f"{setting} is {model!r}, whose hash {run.path}/manifest.json does not have{again}"
            )
        if Path(model).is_dir() and hash_of_folder(Path(model)) != hashes[model]:
            raise RunError(
                f"{setting} is {model!r}, and the folder is not the one that the run was made with{again}"
            )
    copies = (run.record(OUTSIDE) or {"artifacts": {}})["artifacts"]
    for setting, file in named(values, ("summaries",)):
        if file not in copies:
            raise RunError(f"{setting} is {file!r}, of which {run.path} has no copy in {OUTSIDE}/{again}")
