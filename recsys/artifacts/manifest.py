"""What a run writes down about itself: the manifest, and the records of its stages."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recsys.artifacts.paths import RunError

FORMAT = 1  # raised when artifacts of an older Prelude can no longer be read


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises `RunError` for one that is missing or damaged."""
    if not path.exists():
        raise RunError(f"{path} is missing")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RunError(f"{path} is damaged: expected a mapping of stages, found {type(values).__name__}")
    return values


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_text(
    stages: Mapping[str, dict], deletions: Sequence[dict], exported: Mapping[str, Any] | None = None
) -> str:
    """What `manifest.json` holds: the stages' records in the order in which they finished, the deletions,
    and of an exported run what it was exported from.
    """
    ordered = dict(sorted(stages.items(), key=lambda pair: pair[1]["finished_unix_s"]))
    whole: dict[str, Any] = {"format": FORMAT, "stages": ordered}
    if deletions:
        whole["deletions"] = list(deletions)
    if exported:
        whole["exported"] = dict(exported)
    return json.dumps(whole, indent=1)


def rehashed(
    records: Mapping[str, dict[str, Any]], changed: Mapping[str, Mapping[str, str | None]]
) -> dict[str, dict[str, Any]]:
    """The stages' records after artifacts were rewritten:
    `changed[stage][artifact]` is the new sha256, None where the artifact is gone.

    A stage that was made from what its upstream stages held counts as made from what they hold now, so what
    was done stays done; a stage that was out of date stays out of date.
    """
    now = {
        stage: {
            name: digest
            for name, digest in (record["artifacts"] | dict(changed.get(stage, {}))).items()
            if digest is not None
        }
        for stage, record in records.items()
    }
    known = {stage: hash_json(record["artifacts"]) for stage, record in records.items()}
    result = {}
    for stage, record in records.items():
        stages = {
            need: hash_json(now[need]) if known.get(need) == digest else digest
            for need, digest in record["made_from"]["stages"].items()
        }
        made_from = record["made_from"] | {"stages": stages}
        same = made_from == record["made_from"]
        fingerprint = record["fingerprint"] if same else hash_json(made_from)
        result[stage] = record | {
            "fingerprint": fingerprint,
            "made_from": made_from,
            "artifacts": now[stage],
        }
    return result


def stale(records: Mapping[str, dict[str, Any] | None], stages: Collection[str]) -> list[tuple[str, str]]:
    """(stage, need) for each of `stages` that was made from other artifacts of a stage than `records` has now.

    Not of one that was trained on, as `online-full` does: what was made from it goes on with it, and is meant to.
    """
    return [
        (stage, need)
        for stage in stages
        if (record := records.get(stage)) is not None
        for need, digest in record["made_from"]["stages"].items()
        if (now := records.get(need)) is not None
        and "continued" not in now
        and hash_json(now["artifacts"]) != digest
    ]


def told_stale(found: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each of what `stale` found."""
    return [
        f"stage '{stage}' was made from other artifacts of stage '{need}' than there are now"
        for stage, need in found
    ]


def refuse_stale(found: Sequence[tuple[str, str]], path: Path) -> None:
    """Raises `RunError` that names what `stale` found, and the way out."""
    if found:
        again = ", ".join(dict.fromkeys(f"prelude {stage} {shlex.quote(str(path))}" for stage, _ in found))
        raise RunError(
            f"{path}: {'; '.join(told_stale(found))}, so they do not go together. Make again what is out of date ({again}) and what "
            f"follows: prelude run --run {shlex.quote(str(path))}"
        )


def hash_json(value: Any) -> str:
    """Hex sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
