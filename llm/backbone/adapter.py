"""A LoRA written in PEFT's own format, to the same bytes in every process."""

from __future__ import annotations

import json
from pathlib import Path

from peft import PeftModel

CONFIG = "adapter_config.json"


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    PEFT writes the names of the layers in the order of a set of strings, which differs from process to process, and with it the
    artifact's hash; here they stand in order.
    """
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(settings.get(name), list):
            settings[name] = sorted(settings[name])
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
