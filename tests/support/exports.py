"""What is asked of an export and of the run that it is of."""

from __future__ import annotations

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from recsys.artifacts.manifest import rehashed, sha256_of
from recsys.run import Run
from serving import Recommender
from serving.config.combine import CombineConfig
from serving.stages.combine import combine

HISTORY = ["i0", "i2", "i6", "i8"]


OF_USERS = {"item_knn", "oppu_lora", "oppu_ia3", "oppu_prompt", "oppu_lora_rag", "oppu_lora_pag", "per_pcs"}


STRANGER = ("anyone", {"n": 6, "history": HISTORY})


NEWCOMER = ("newcomer", {"n": 5})


KNOWN = ("u3", {"n": 5, "temperature": 1.0, "seed": 7, "query": "odd"})


def answers(service: Recommender, method: str, *asked) -> list:
    """The lists of requests: by default a beam for a history, and draws for a user with a query."""
    return [service.recommend(user, method=method, **options) for user, options in asked or (STRANGER, KNOWN)]


def with_products(small_run, folder, *experts: str) -> Run:
    """A copy of the small run with vectors of texts, and the products of two generators with these experts."""
    config, run = small_run
    run = Run.open(shutil.copytree(run.path, folder))
    path = run.artifact("embed", "item_vectors.safetensors")
    tensors = load_file(path)
    texts = torch.randn(len(tensors["collaborative"]), 8, generator=torch.Generator().manual_seed(5))
    save_file(tensors | {"text": texts}, path)
    records = {place.parent.name: json.loads(place.read_text()) for place in run.path.glob("*/stage.json")}
    changed = {"embed": {"item_vectors.safetensors": sha256_of(path)}}
    for stage, record in rehashed(records, changed).items():
        (run.path / stage / "stage.json").write_text(json.dumps(record))
    config = config.model_copy(update={"combine": CombineConfig(experts=experts, instances=60)})  # type: ignore[arg-type]
    run.write_config(config.model_dump(mode="json"))
    combine(config, run, quiet=True)
    return run


PRODUCTS = ["experts_product", "no_context_product", "e2p_product"]
