"""Stage 1's model: made new, saved, and loaded again.

Saved are the adapter, in PEFT's own format (or all weights, where all were trained), the rows of the semantic-ID
tokens, and, where they are of the other form, the reader of items and the head: the backbone's weights are not
copied. Loading merges the adapter.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from llm.backbone.adapter import merge_adapter, save_adapter
from llm.backbone.heads import CodeReader, DepthHead, Reader, VectorReader
from llm.backbone.leaves import LeafItems, principal
from llm.backbone.load import Backbone, load_backbone, load_frozen, weights_hash
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows, words_of_codes
from llm.prompts.builder import PromptBuilder
from llm.stage1.config import AdaptConfig
from llm.stage1.records import BackboneEncoder
from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.embeddings.embed import load_item_vectors
from recsys.run import Run
from recsys.seeds import derive
from semantic_ids.table import SemanticIdTable
from semantic_ids.tokenizer import load_table, load_tokenizer
from semantic_ids.trie import Trie

# Of output rows at the start. At 1, SmolLM2's hidden states (norm 40 at h = 576) make logits of standard
# deviation 1.6: three levels of that cost 4 nats above a uniform guess, and the first hundred steps would
# only unlearn them
OUTPUT_NORM = 0.25
HEAD = "head.safetensors"


def new_model(
    backbone: Backbone,
    table: SemanticIdTable,
    codebooks,
    config: AdaptConfig,
    texts: Sequence[str] = (),
    vectors: np.ndarray | None = None,
    asked: np.ndarray | None = None,
) -> SidModel:
    """The untrained Stage 1 model: fresh rows, and a fresh LoRA (B = 0) around the frozen backbone.
    `texts` [N] are the items', `vectors` [N, d] what the tokenizer read of them (for `item_projection`), `asked` [N, e] those
    whose principal components the head asks (`asked_vectors`).
    """
    if config.train == "full":
        backbone.model.requires_grad_(True)
    else:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules=list(config.lora_modules),
            lora_dropout=0.0,
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(derive(config.seed, "lora"))
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an old name
            backbone.model = get_peft_model(backbone.model, lora)
    norm = float(backbone.text_embeddings.detach().float().norm(dim=1).mean())
    rows = SidRows(table.sizes, backbone.hidden_size)
    read = None if vectors is None else torch.from_numpy(vectors)
    components = None if asked is None else principal(torch.from_numpy(asked), config.head_asks_dims)
    model = _model_of(config, backbone, rows, table, read, components)
    words = None
    if config.rows_from == "words" or (config.rows_from == "auto" and config.train == "lora"):
        words = words_of_codes(BackboneEncoder(model).means(texts), table.codes, table.sizes)
    if isinstance(model.reader, VectorReader):
        norm *= (
            len(table.sizes) ** -0.5
        )  # an item's vector, not each of its rows, has the norm of a text token's
        model.reader.start(norm, config.seed)
    model.rows.start_from(codebooks, norm, config.seed, words, OUTPUT_NORM)
    if isinstance(model.head, DepthHead):
        model.head.start(config.seed)
    return model


def _model_of(
    config: AdaptConfig,
    backbone: Backbone,
    rows: SidRows,
    table: SemanticIdTable,
    read: torch.Tensor | None,
    asked: torch.Tensor | None,
) -> SidModel:
    """The model in the form that the configuration asks for. Item vectors that are `read` are projected into the prompt, those that
    are `asked` are what the head sees of them.
    """
    # of what it is trained on
    whole = table.n_base == table.n_items
    trie = (table.trie if whole else Trie(table.codes[: table.n_base], table.sizes)).to(backbone.device)
    reader: Reader = CodeReader(rows, table.codes)  # items that came later are read too
    if config.items == "vector":
        reader = VectorReader(rows, np.asarray(table.codes), read)
    items = None if asked is None else LeafItems(trie, asked.to(backbone.device))
    head = DepthHead(rows, config.head_width, config.head_layers, items) if config.head == "depth" else None
    return SidModel(backbone, rows, trie, reader, head)


def item_vectors(run: Run) -> np.ndarray:
    """What the tokenizer of a run read of every item [N, d], of mean variance 1 a dimension."""
    return load_tokenizer(run).read(load_item_vectors(run))


def asked_vectors(config: AdaptConfig, run: Run) -> np.ndarray | None:
    """Vectors [N, d] of the items that the head asks; None where it asks none. Raises `RunError` where the run has no texts."""
    if config.head_asks is None:
        return None
    if config.head_asks == "joined":
        return item_vectors(run)
    text = load_item_vectors(run).get("text")
    if text is None:
        raise RunError(
            f"{run.path} has no text vectors, which adapt.head_asks wants; set embed.text_encoder, or head_asks to joined"
        )
    return np.array(text)


def prompt_builder(config: AdaptConfig, model: SidModel, dataset: Dataset) -> PromptBuilder:
    # where the backbone writes codes, its windows in training also hold a target's last one, which predicts nothing
    target = None if model.head.reads_nodes else model.target_tokens
    return PromptBuilder(
        config.prompts, dataset.catalogue, model.encode, model.bos_id, model.item_tokens, target
    )


def save_adapted(model: SidModel, folder: Path) -> None:
    """Write `adapter/` (PEFT's format; `weights.safetensors` where all was trained),
    `sid_rows.safetensors`, and `head.safetensors` where reader or head have weights of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model.inner, "peft_config"):
        save_adapter(model.inner, folder / "adapter")
    else:
        weights = {name: tensor.detach().contiguous() for name, tensor in model.inner.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
    save_file(
        {"input": model.rows.input.detach(), "output": model.rows.output.detach()},
        folder / "sid_rows.safetensors",
    )
    if isinstance(model.head, DepthHead):
        save_file({name: tensor.detach() for name, tensor in _form(model).items()}, folder / HEAD)


def _form(model: SidModel) -> dict[str, torch.Tensor]:
    """What reader and head are made of, by name; the frozen item vectors included."""
    tensors: dict[str, torch.Tensor] = {}
    for name, part in (("reader", model.reader), ("head", model.head)):
        if isinstance(part, torch.nn.Module):
            tensors |= {f"{name}.{key}": tensor.contiguous() for key, tensor in part.state_dict().items()}
    if isinstance(model.reader, VectorReader) and model.reader.vectors is not None:
        tensors["reader.vectors"] = model.reader.vectors
    if isinstance(model.head, DepthHead) and model.head.asks is not None:
        tensors["head.items"] = model.head.asks.items.vectors
    return tensors


def load_adapted(
    run: Run, config: AdaptConfig, stage: str = "adapt", folder: str = "", merge: bool = True
) -> SidModel:
    """The adapted, merged and frozen model of a run (with `merge=False` the adapter is kept apart and
    trainable).

    Raises `RunError` naming the artifact if the backbone or the semantic-ID table is not the one it was
    trained with.
    """
    table, report = load_table(run), run.read_json("adapt", "adapt.json")
    if report["table_hash"] != table.content_hash():
        raise RunError(
            f"the adapter in {run.path}/adapt was trained with another semantic-ID table; run adapt again"
        )
    # in the precision that it was trained in, whatever auto would be on this machine
    load = load_frozen if merge else load_backbone
    backbone = load(config.backbone.model_copy(update={"dtype": report.get("dtype", config.backbone.dtype)}))
    if weights_hash(backbone.model) != report["backbone_hash"]:
        raise RunError(
            f"the adapter in {run.path}/adapt was trained on other weights than {config.backbone.name} has"
        )
    rows = SidRows(table.sizes, backbone.hidden_size)
    rows.load_state_dict(load_file(run.artifact(stage, f"{folder}sid_rows.safetensors")))
    if config.train == "full":
        backbone.model.load_state_dict(load_file(run.artifact(stage, f"{folder}weights.safetensors")))
        backbone.model.requires_grad_(not merge)
    else:
        run.artifact(stage, f"{folder}adapter/adapter_config.json")
        adapter = run.artifact(stage, f"{folder}adapter/adapter_model.safetensors").parent
        if not (merge and merge_adapter(backbone.model, adapter)):
            backbone.model = _under_peft(backbone.model, adapter, merge)
    saved = load_file(run.artifact(stage, f"{folder}{HEAD}")) if config.head == "depth" else {}
    read, asked = saved.pop("reader.vectors", None), saved.pop("head.items", None)
    model = _model_of(config, backbone, rows, table, read, asked)
    for name, part in (("reader", model.reader), ("head", model.head)):
        if isinstance(part, torch.nn.Module):
            own = {key: value for key, value in saved.items() if key.startswith(f"{name}.")}
            part.load_state_dict({key.removeprefix(f"{name}."): value for key, value in own.items()})
    return model.eval().requires_grad_(False) if merge else model


def _under_peft(model: Any, adapter: Path, merge: bool) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        peft = PeftModel.from_pretrained(model, str(adapter), is_trainable=not merge)
    return peft.merge_and_unload() if merge else peft
