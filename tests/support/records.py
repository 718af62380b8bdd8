"""Records of stages, changed as other versions of Prelude would have written them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from recsys.artifacts.manifest import hash_json
from recsys.run import Run


def made_with(folder: Path, values: dict) -> None:
    """As if the run had been made with this configuration: what it says of its stages, they say too."""
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    for place in folder.glob("*/stage.json"):
        record, section = json.loads(place.read_text()), values.get(place.parent.name)
        if isinstance(section, dict):
            record["made_from"]["config"] = section
            record["fingerprint"] = hash_json(record["made_from"])
            place.write_text(json.dumps(record))


def without_setting(run: Run, stage: str, setting: str) -> None:
    """As if the stage had been made before there was this setting."""
    path = run.path / stage / "stage.json"
    record = json.loads(path.read_text())
    del record["made_from"]["config"][setting]
    path.write_text(json.dumps(record))
