"""A request's low-rank update as an adapter file of PEFT: what P2P generates, what OPPU trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from llm.backbone.conditions import Condition, LowRank, Update
from llm.prompts.reading import Reading
from recsys.recommender import Request


@torch.no_grad()
def export_adapter(reading: Reading, request: Request, folder: Path) -> dict[str, int]:
    """Write `adapter_config.json` and `adapter_model.safetensors` for the request;
    returns `rank`, `layers`, `parameters`.

    The adapter belongs on the *merged* Stage 1 model:

        PeftModel.from_pretrained(load_adapted(run, config.adapt).inner, folder)

    then gives the hidden states that we compute for this request; its prompt is the method's
    (`reading.prompts`). The scale alpha / r is inside B, so that alpha = r. Raises `ValueError` where an
    adapter file cannot say all that the method does.
    """
    from peft import LoraConfig

    condition = reading.conditioned(reading.prompts([request]), [request])[1]
    if condition.prefix is not None:
        raise ValueError(
            f"this method puts {reading.soft_tokens} soft tokens in front, which a LoRA file cannot hold"
        )
    pairs = _pairs(condition)
    rank = max(len(a) for a, _ in pairs.values())
    tensors = {}
    for name, (a, b) in pairs.items():
        more = rank - len(a)  # layers of a lower rank are filled up with zeros, which changes nothing
        place = f"base_model.model.{name}"
        tensors[f"{place}.lora_A.weight"] = torch.nn.functional.pad(a, (0, 0, 0, more)).contiguous()
        tensors[f"{place}.lora_B.weight"] = torch.nn.functional.pad(b, (0, more)).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=sorted(pairs), lora_dropout=0.0, inference_mode=True
    )
    written = config.to_dict() | {"target_modules": sorted(pairs), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=1, default=str))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return {
        "rank": rank,
        "layers": len(pairs),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
    }


def _pairs(condition: Condition) -> Mapping[str, tuple[Tensor, Tensor]]:
    """A [r, in] and B [out, r] of each layer for the only request;
    several updates of a layer are laid side by side.
    """
    if not condition.updates:
        raise ValueError("this method updates no layer for the request, so there is no adapter to export")
    pairs = {}
    for name, updates in condition.updates.items():
        own = [_own(update) for update in updates]
        pairs[name] = torch.cat([a for a, _ in own]), torch.cat([b for _, b in own], 1)
    return pairs


def _own(update: Update) -> tuple[Tensor, Tensor]:
    if not isinstance(update, LowRank):
        raise ValueError("this method's update is a gain (IA3), not a LoRA; a LoRA file cannot hold it")
    first = update.a.ndim == 3
    a, b = (update.a[0], update.b[0]) if first else (update.a, update.b)
    return a.detach().float().cpu(), b.detach().float().cpu()
