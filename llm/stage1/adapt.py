"""Stage `adapt` (Stage 1): its settings; the backbone learns to write semantic IDs from everyone's data, and is frozen.

Trained are the rows of the semantic-ID tokens and a PEFT LoRA on the inner model, with the log-likelihood of
items inside the trie (`llm.backbone.sid_model`). Saved are the adapter, in PEFT's own format, and the rows:
the backbone's weights are not copied. Loading merges the adapter. That model, with no prefix and no profile,
is *No Context*.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from safetensors.torch import load_file, save_file

from llm.backbone.adapter import save_adapter
from llm.backbone.conditions import NOTHING
from llm.backbone.load import Backbone, BackboneConfig, load_backbone, text_head, weights_hash
from llm.backbone.regularise import BranchDropout
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows, words_of_codes
from llm.decoding.scoring import shared_hit_rate
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.reading import Reading
from llm.stage1.records import BackboneEncoder
from llm.stage1.understanding import known_and_held_out, query_precision
from llm.stage1.windows import Shares, Window, WindowBatches, WindowBuilder
from llm.stage1.words import Words, text_loss
from recsys.artifacts.paths import RunError
from recsys.config import StageConfig
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, VALIDATION
from recsys.run import Run
from recsys.seeds import derive, rng
from recsys.training import distributed, loop
from semantic_ids.table import SemanticIdTable
from semantic_ids.tokenizer import load_table, load_tokenizer
from semantic_ids.trie import Trie

# Of output rows at the start. At 1, SmolLM2's hidden states (norm 40 at h = 576) make logits of standard
# deviation 1.6: three levels of that cost 4 nats above a uniform guess, and the first hundred steps would
# only unlearn them
OUTPUT_NORM = 0.25


class AdaptConfig(StageConfig):
    seed: int = 0
    backbone: BackboneConfig = BackboneConfig()
    prompts: PromptConfig = PromptConfig()
    # lora: an LLM stays as it is under an adapter; full: every weight is trained (and saved), for `scratch`
    # backbones
    train: Literal["lora", "full"] = "lora"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    )  # attention, as TAP-PER; the MLP costs time
    steps: int = 2000  # optimiser steps
    batch: int = 32  # windows a step
    window_items: int = 12  # items a window; every one is a target, so longer windows cost less a target
    profile_share: float = 0.5  # share of windows that carry the text profile: Prompt Context is trained for
    query_share: float = 0.15  # share of windows that carry a query about their last item
    # what the rows of semantic-ID tokens start from: codebook vectors, or these and the words of a code's
    # items; auto: words too, unless the backbone is trained from scratch and knows no words
    rows_from: Literal["auto", "codebook", "words"] = "auto"
    words_batch: int = Field(16, ge=0)  # rows a step from words to an item's ID (llm.stage1.words)
    title_batch: int = Field(4, ge=0)  # rows a step from an item's ID to its title
    title_weight: float = Field(0.1, ge=0)  # of their loss, a mean over text tokens, beside the items'
    records_share: float = 0.1  # share of windows that carry retrieved records: RAG and PAG are trained for
    learning_rate: float = 1e-3  # of the LoRA, or of all weights (AdamW)
    rows_learning_rate: float = 5e-3  # of the semantic-ID rows, which start from nothing
    weight_decay: float = 0.01
    # against learning training sequences by heart, for backbones trained from scratch
    # (llm.backbone.regularise): the share of numbers dropped from what each block adds; the share of a
    # target's probability that is given to the other codes of its node
    dropout: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    warmup: int = 50  # steps
    clip_norm: float = 1.0
    validate_every: int = 250  # steps
    patience: int = 4  # validations without a new best; 0: never stop early
    # queries of each kind by which its understanding is measured in the end
    asked_queries: int = Field(100, ge=0)
    validation_instances: int = 500  # a seeded sample of validation instances


def adapt(config: AdaptConfig, run: Run) -> None:
    """Run the stage; see the module. Raises `ValueError` for a random backbone that is to stay random."""
    if config.backbone.name == "scratch" and config.train != "full":
        raise ValueError(
            "adapt.backbone.name is scratch: a random model has to be trained whole; set adapt.train: full"
        )
    wanted, stage = _trainable(config), run.stage("adapt", config, needs=["prepare", "tokenize"])
    if stage.is_done():
        return
    dataset, table = Dataset.load(run), load_table(run)
    with stage.writing() as folder:
        backbone = load_backbone(wanted)
        report: dict[str, Any] = {
            "backbone": config.backbone.name,
            "dtype": str(backbone.text_embeddings.dtype).removeprefix("torch."),
            "backbone_hash": weights_hash(backbone.model),
            "table_hash": table.content_hash(),
        }
        head = text_head(backbone) if config.title_batch else None
        codebooks = load_tokenizer(run).quantizer.codebooks
        model = new_model(backbone, table, codebooks, config, dataset.catalogue.texts())
        builder = prompt_builder(config, model, dataset)
        phrases = Phrases(dataset)
        curves = train_on_windows(config, model, builder, phrases, head, stage.checkpoint)
        reading = Reading(model.eval(), builder)
        save_adapted(model, folder)
        report |= {
            "model_parameters": sum(p.numel() for p in model.inner.parameters() if p.requires_grad),
            "row_parameters": sum(p.numel() for p in model.rows.parameters()),
            "best_step": curves.best_step,
            "validation_expected_hit_rate@30": curves.best_value,
            "queries": _understanding(config, reading, phrases.before_test()),
        }
        (folder / "adapt.json").write_text(json.dumps(report, indent=1))
        (folder / "curves.json").write_text(json.dumps({"Stage 1": curves.as_dict()}))
    if not distributed.is_main():
        return
    print(
        f"adapt: {report['model_parameters']:,} {'LoRA' if config.train == 'lora' else 'model'} and {report['row_parameters']:,} row parameters; validation "
        f"expected hit-rate@30 {curves.best_value:.4f} at step {curves.best_step}"
    )
    for name, found in report["queries"].items():
        print(
            f"adapt: {found['queries']} {name.replace('_', '-')} queries: {found['with_query']:.1%} of the first ten items carry their "
            f"words, {found['without_query']:.1%} without the query, {found['chance']:.1%} by chance"
        )


def _trainable(config: AdaptConfig) -> BackboneConfig:
    """The backbone in a precision that it can be trained in.
    Raises `ValueError` where the configuration asks for another.
    """
    if config.train == "full" and config.backbone.dtype == "bfloat16":
        raise ValueError(
            "adapt.train is full and adapt.backbone.dtype bfloat16: an optimiser's small steps vanish in bfloat16 weights; set "
            "adapt.backbone.dtype to float32 or auto"
        )
    whole = {"dtype": "float32"} if config.train == "full" else {}
    return config.backbone.model_copy(update=whole)


def new_model(
    backbone: Backbone, table: SemanticIdTable, codebooks, config: AdaptConfig, texts: Sequence[str] = ()
) -> SidModel:
    """The untrained Stage 1 model: fresh rows, and a fresh LoRA (B = 0) around the frozen backbone.
    `texts` [N] are the items'.
    """
    if config.train == "full":
        backbone.model.requires_grad_(True)
    else:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(derive(config.seed, "lora"))
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an old name
            backbone.model = get_peft_model(backbone.model, _lora(config))
    norm = float(backbone.text_embeddings.detach().float().norm(dim=1).mean())
    model = SidModel(backbone, SidRows(table.sizes, backbone.hidden_size), Trie(table.codes, table.sizes))
    words = None
    if config.rows_from == "words" or (config.rows_from == "auto" and config.train == "lora"):
        words = words_of_codes(BackboneEncoder(model).means(texts), table.codes, table.sizes)
    model.rows.start_from(codebooks, norm, config.seed, words, OUTPUT_NORM)
    return model


def _lora(config: AdaptConfig) -> LoraConfig:
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=list(config.lora_modules),
        lora_dropout=0.0,
    )


def prompt_builder(config: AdaptConfig, model: SidModel, dataset: Dataset) -> PromptBuilder:
    return PromptBuilder(config.prompts, dataset.catalogue, model.encode, model.bos_id, model.item_tokens)


def train_on_windows(
    config: AdaptConfig,
    model: SidModel,
    builder: PromptBuilder,
    phrases: Phrases,
    head: torch.Tensor | None,
    checkpoint: Path,
) -> loop.Curves:
    """Train LoRA and rows on windows of FIT events and on words;
    the best validated state is left in the model.

    `head` [V, h] gives logits over text, for rows that go from an ID to a title.
    """
    dataset = phrases.dataset
    shares = Shares(config.profile_share, config.query_share, config.records_share)
    windows = WindowBuilder(dataset, builder, shares, config.seed, phrases)
    batches = WindowBatches(windows, FIT, config.window_items, config.batch)
    words = Words(dataset, builder, phrases, FIT, config.seed, config.words_batch, config.title_batch)
    lora = [parameter for parameter in model.inner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": lora, "lr": config.learning_rate, "weight_decay": config.weight_decay},
            {"params": list(model.rows.parameters()), "lr": config.rows_learning_rate, "weight_decay": 0.0},
        ],
        fused=model.device.type == "cuda",  # one kernel instead of a dozen
    )
    dropout = BranchDropout(model.layers, config.dropout, config.seed)
    events = validation_events(dataset, config.validation_instances, config.seed)
    requests, targets = dataset.requests(events, dataset.exclude_seen), dataset.items[events]

    def step(index: int) -> tuple[torch.Tensor, int]:
        windows = [*batches[index], *words.windows(index)]
        with dropout.on(index, model.device):
            loss = window_loss(model, windows, config.label_smoothing)
            if head is not None and config.title_weight:
                loss = loss + config.title_weight * text_loss(model, head, words.titles(index))
        return loss, sum(len(window.items) for window in windows)

    return loop.fit(
        "Stage 1",
        config.steps,
        loop.trainable_state(model),
        optimizer,
        step,
        checkpoint,
        schedule=lambda index: loop.cosine(index, config.steps, config.warmup),
        validate=lambda: shared_hit_rate(Reading(model, builder), requests, targets),
        validate_every=config.validate_every,
        patience=config.patience,
        clip_norm=config.clip_norm,
    )


def _understanding(config: AdaptConfig, reading: Reading, phrases: Phrases) -> dict[str, Any]:
    """precision@10 of answers to queries that training has read and to held-out ones;
    {} where the data has no words.
    """
    data, report = phrases.dataset, {}
    requests = data.requests(validation_events(data, config.asked_queries, config.seed), False)
    for name, queries in known_and_held_out(phrases, config.asked_queries, config.seed).items():
        found = query_precision(reading, phrases, requests, queries)
        if found is not None:
            report[name] = found.as_dict()
    return report


def validation_events(dataset: Dataset, at_most: int, seed: int) -> np.ndarray:
    """A seeded sample of the validation events that can be asked for, ascending."""
    events = dataset.instances(VALIDATION)
    if len(events) == 0:
        raise RunError("the split left no validation instance; raise validation_fraction or bring more data")
    if at_most and len(events) > at_most:
        events = np.sort(rng(seed, "validation").choice(events, at_most, replace=False))
    return events


def window_loss(model: SidModel, windows: list[Window], smoothing: float = 0.0) -> torch.Tensor:
    """−mean log p(item | what stands before it) over all targets of a batch of windows, in one packed pass; each times its weight.

    `smoothing`: of labels (`SidModel.path_log_probs`).
    """
    packed = model.pack([window.tokens for window in windows])
    begins = zip(windows, packed.layout.begins, strict=True)
    start = np.concatenate([window.starts + begin for window, begin in begins])
    wanted = torch.from_numpy(start[:, None] - 1 + np.arange(model.trie.n_levels)).to(model.device)
    states = model.hidden(packed, NOTHING, wanted.reshape(-1)).view(*wanted.shape, -1)
    items = torch.from_numpy(np.concatenate([window.items for window in windows]))
    log_p = model.path_log_probs(states, items, smoothing=smoothing)
    if all(window.weights is None for window in windows):
        return -log_p.mean()
    ones = [np.ones(len(w.items)) if w.weights is None else w.weights for w in windows]
    return -(log_p * torch.from_numpy(np.concatenate(ones)).to(log_p)).mean()


def save_adapted(model: SidModel, folder: Path) -> None:
    """Write `adapter/` (PEFT's format; `weights.safetensors` where all was trained) and
    `sid_rows.safetensors`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model.inner, PeftModel):
        save_adapter(model.inner, folder / "adapter")
    else:
        weights = {name: tensor.detach().contiguous() for name, tensor in model.inner.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
    save_file(
        {"input": model.rows.input.detach(), "output": model.rows.output.detach()},
        folder / "sid_rows.safetensors",
    )


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
    backbone = load_backbone(
        config.backbone.model_copy(update={"dtype": report.get("dtype", config.backbone.dtype)})
    )
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            peft = PeftModel.from_pretrained(backbone.model, str(adapter), is_trainable=not merge)
        backbone.model = peft.merge_and_unload() if merge else peft
    model = SidModel(backbone, rows, Trie(table.codes, table.sizes))
    return model.eval().requires_grad_(False) if merge else model
