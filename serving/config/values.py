"""Settings as somebody gave them, in a YAML file and by `--set`, and the words in which they are refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from recsys.config import StageConfig

Config = TypeVar("Config", bound=StageConfig)


def read_values(path: Path | None, changes: Iterable[str] = (), base: dict | None = None) -> tuple[dict, str]:
    """The settings as given, with the changes applied, and what to call their source in messages."""
    values: dict = dict(base or {})
    source = "the configuration"
    if path is not None:
        source = str(path)
        if not path.is_file():
            raise ValueError(f"{path}: no such configuration file")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid YAML: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a mapping of stages, found {type(values).__name__}")
    for change in changes:
        _apply(values, change)
    return values, source


def validated(kind: type[Config], values: dict, source: str) -> Config:
    """The settings as a `kind`; raises `ValueError` with every wrong field, what was given, and where."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"]) or "(top)"
            given = problem.get("input")
            shown = f" (given {given!r})" if isinstance(given, str | int | float | bool) else ""
            lines.append(f"  {place}: {problem['msg'].removeprefix('Value error, ')}{shown}")
        raise ValueError(f"{source} is not valid:\n" + "\n".join(lines)) from None


def _apply(values: dict, change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {change!r}: expected stage.key=value, for example --set adapt.steps=500")
    mapped = key.removeprefix("prepare.columns.")  # a mapped column's own name may hold a dot: items.item_id
    *parents, last = ["prepare", "columns", mapped] if mapped != key else key.split(".")
    place = values
    for parent in parents:
        if not isinstance(place.get(parent) or {}, dict):  # a section that is off is null
            raise ValueError(f"--set {change!r}: {parent} is not a section")
        place[parent] = dict(place.get(parent) or {})
        place = place[parent]
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {change!r}: the value is not valid YAML: {error}") from None
