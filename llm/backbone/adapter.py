"""A LoRA in PEFT's own format: written to the same bytes in every process, and merged without PEFT where it is a plain one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

if TYPE_CHECKING:  # seconds to import, which answering does not need
    from peft import PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings that say nothing of how a LoRA is merged, or are checked; any other has to be off in a plain one
FREE = {
    "auto_mapping", "base_model_name_or_path", "bias", "inference_mode", "init_lora_weights", "lora_alpha", "lora_dropout",
    "loftq_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision", "target_modules", "task_type",
}  # fmt: skip


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


@torch.no_grad()
def merge_adapter(model: nn.Module, folder: Path) -> bool:
    """W + (α / r) · B A into the weights of each layer that a plain LoRA has, to the bit as PEFT's `merge_and_unload`.

    False, and nothing done, for an adapter that is more than a plain LoRA, or of other layers: PEFT knows what to do with it.
    """
    settings: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    more = [
        name for name, value in settings.items() if name not in FREE and value not in (None, False, [], {})
    ]
    if (settings["peft_type"], settings["bias"]) != ("LORA", "none") or more:
        return False
    tensors = load_file(folder / WEIGHTS)
    names = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    linear = {
        f"base_model.model.{name}": part
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
    }
    parts = [(f"{name}.lora_A.weight", f"{name}.lora_B.weight") for name in names]
    if not set(names) <= set(linear) or sorted(name for pair in parts for name in pair) != sorted(tensors):
        return False
    for name, (a, b) in zip(names, parts, strict=True):
        weight = linear[name].weight
        down, up = (tensors[part].to(weight.device, torch.float32) for part in (a, b))
        weight.data = (weight.data + (up @ down) * (settings["lora_alpha"] / settings["r"])).to(weight.dtype)
    return True
