"""Stage `tokenize`: item vectors → quantizer → unique semantic IDs, with the report that judges them."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from recsys.run import Run
from semantic_ids.config import TokenizeConfig
from semantic_ids.inputs import InputSpace
from semantic_ids.new_items import ContentPath, held_out_quality
from semantic_ids.quality import quality_report
from semantic_ids.table import SemanticIdTable, check_capacity, make_unique
from semantic_ids.tokenizer import ItemTokenizer, make_quantizer, without_gaps


def tokenize_items(config: TokenizeConfig, run: Run) -> None:
    """Run the stage. Writes the table, the quantizer and its inputs, `quality.json` and `curves.json`."""
    stage = run.stage("tokenize", config, needs=["prepare", "embed"])
    if stage.is_done():
        return
    arrays = load_file(run.artifact("embed", "item_vectors.safetensors"))
    with stage.writing() as folder:
        _tokenize(config, arrays, folder, stage.checkpoint)


def _tokenize(config: TokenizeConfig, arrays: dict[str, np.ndarray], folder: Path, checkpoint: Path) -> None:
    collaborative, has, text = (
        arrays["collaborative"],
        arrays["has_collaborative"].astype(bool),
        arrays.get("text"),
    )
    inputs = InputSpace.fit(config.source, collaborative, has, text, config.text_weight, config.text_dims)
    sizes, notes = fitting_sizes(config, len(collaborative))
    content = None
    if text is not None and inputs.collaborative is not None:
        content = ContentPath.fit(text[has], collaborative[has], config.seed)
    vectors = inputs.apply(without_gaps(collaborative, has, text, content), text)
    quantizer = make_quantizer(config.quantizer, inputs.dim, sizes, config.rqvae)
    curves = quantizer.fit(vectors, checkpoint / config.quantizer, config.seed)
    coded = quantizer.encode(vectors)
    unique = make_unique(coded, sizes, quantizer.latent_of(vectors), quantizer.codebooks, config.collision)
    report: dict[str, Any] = {
        "quantizer": config.quantizer,
        "source": config.source,
        "collision_policy": config.collision,
        "items_without_collaborative": int((~has).sum()),
        "filled_from": "text" if content else "mean",
        "notes": notes,
        "new_items": held_out_quality(collaborative, has, text, inputs, quantizer, config.seed),
    }
    report |= quality_report(vectors, coded, unique.codes, unique.sizes, quantizer, config.seed)
    SemanticIdTable(unique.codes, unique.sizes).save(folder)
    ItemTokenizer(inputs, quantizer, content).save(folder)
    (folder / "quality.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (folder / "curves.json").write_text(json.dumps({config.quantizer: curves}), encoding="utf-8")


def fitting_sizes(config: TokenizeConfig, n_items: int) -> tuple[tuple[int, ...], list[str]]:
    """The configured level sizes, smaller where the catalogue is too small for them, and what was said of it.

    At least four items a code, so that a code means something, but never so few codes that fewer than twice
    as many IDs as items are left. Raises `ValueError` when the configured levels cannot name every item.
    """
    roomy = math.ceil((2 * n_items) ** (1 / config.levels) - 1e-9)
    limit = min(n_items, max(n_items // 4, roomy))
    sizes = tuple(min(size, limit) for size in config.sizes)
    if config.collision == "reassign":
        check_capacity(sizes, n_items)
    if sizes == config.sizes:
        return sizes, []
    note = (
        f"tokenize.size: {config.size} is too much for {n_items} items; the levels have {sizes} codes instead"
    )
    warnings.warn(note, stacklevel=2)
    return sizes, [note]
