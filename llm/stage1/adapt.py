"""Stage `adapt` (Stage 1): the backbone learns to write semantic IDs from everyone's data, and is frozen.

Trained are the rows of the semantic-ID tokens, a PEFT LoRA on the inner model (or all of it), and, where items
have the other form (`llm.backbone.heads`), what reads an item and the head that writes its codes, with the
log-likelihood of items inside the trie (`llm.backbone.sid_model`). That model, with no prefix and no profile, is
*No Context*; `llm.stage1.model` saves and loads it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from llm.backbone.conditions import NOTHING
from llm.backbone.heads import DepthHead, VectorReader
from llm.backbone.load import BackboneConfig, load_backbone, text_head, weights_hash
from llm.backbone.regularise import BranchDropout
from llm.backbone.sid_model import SidModel
from llm.decoding.scoring import shared_hit_rate
from llm.prompts.builder import PromptBuilder
from llm.prompts.prefixes import UserPrefix, parameter_count
from llm.prompts.reading import Reading
from llm.stage1.config import AdaptConfig
from llm.stage1.model import asked_vectors, item_vectors, new_model, prompt_builder, save_adapted
from llm.stage1.soft import SoftRows, new_phi, save_phi
from llm.stage1.taught import FITTED, TaughtRows, teacher_of
from llm.stage1.understanding import known_and_held_out, query_precision
from llm.stage1.windows import Shares, Window, WindowBatches, WindowBuilder
from llm.stage1.words import Words, text_loss
from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, VALIDATION
from recsys.embeddings.embed import load_user_vectors
from recsys.run import Run
from recsys.seeds import sample
from recsys.training import distributed, loop
from semantic_ids.tokenizer import load_table, load_tokenizer


def adapt(config: AdaptConfig, run: Run) -> None:
    """Run the stage; see the module. Raises `ValueError` for a random backbone that is to stay random."""
    if config.backbone.name == "scratch" and config.train != "full":
        raise ValueError(
            "adapt.backbone.name is scratch: a random model has to be trained whole; set adapt.train: full"
        )
    reads_vectors = (
        config.item_projection
        or config.head_asks is not None
        or config.soft_batch > 0
        or config.taught_batch > 0
    )
    needs = ["prepare", "tokenize", *(["embed"] if reads_vectors else [])]
    wanted, stage = _trainable(config), run.stage("adapt", config, needs=needs)
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
        vectors = item_vectors(run) if config.item_projection else None
        model = new_model(
            backbone, table, codebooks, config, dataset.catalogue.texts(), vectors, asked_vectors(config, run)
        )
        builder = prompt_builder(config, model, dataset)
        phrases = Phrases(dataset)
        prefix = None
        if config.soft_batch:
            prefix = new_phi(model, load_user_vectors(run), config.soft_bottleneck, config.seed)
        taught = _taught(config, run, model, dataset, report) if config.taught_batch else None
        curves = train_on_windows(config, model, builder, phrases, head, stage.checkpoint, prefix, taught)
        reading = Reading(model.eval(), builder)
        save_adapted(model, folder)
        if prefix is not None:
            save_phi(prefix, folder)
            report["phi_parameters"] = parameter_count(prefix)
        report |= {
            "model_parameters": sum(p.numel() for p in model.inner.parameters() if p.requires_grad),
            "row_parameters": sum(p.numel() for p in model.rows.parameters()),
            **{f"{name}_parameters": count for name, count in _own_parts(model).items()},
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


def _taught(
    config: AdaptConfig, run: Run, model: SidModel, dataset: Dataset, report: dict[str, Any]
) -> TaughtRows:
    """Rows that learn the retrievers' product, which validation weighs (and `report` says how)."""
    whole = config.prompts.model_copy(update={"recent_items": config.window_items})
    builder = prompt_builder(config.model_copy(update={"prompts": whole}), model, dataset)
    teacher, events = teacher_of(run), validation_events(dataset, config.validation_instances, config.seed)
    some = events[:: -(-len(events) // FITTED)]
    nats = teacher.fit(dataset.block(some, dataset.exclude_seen), dataset.items[some])
    report["taught_by"] = teacher.as_dict() | {"nats": nats, "instances": len(some)}
    longest = config.prompts.recent_items if config.soft_items is None else config.soft_items
    rows = TaughtRows(
        dataset, builder, teacher, config.seed, config.taught_batch, config.taught_draws, longest, events
    )
    print(
        f"adapt: {len(rows.requests):,} histories are taught by {', '.join(teacher.experts)} together ({nats:.2f} nats a target)"
    )
    return rows


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


def _own_parts(model: SidModel) -> dict[str, int]:
    """Parameters of the reader and of the head, where they have any of their own."""
    parts = {"reader": model.reader, "head": model.head}
    modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in modules.items()}
    return {name: count for name, count in counts.items() if count}


def train_on_windows(
    config: AdaptConfig,
    model: SidModel,
    builder: PromptBuilder,
    phrases: Phrases,
    head: torch.Tensor | None,
    checkpoint: Path,
    prefix: UserPrefix | None = None,
    taught: TaughtRows | None = None,
) -> loop.Curves:
    """Train LoRA and rows on windows of FIT events and on words;
    the best validated state is left in the model (and in `prefix`).

    `head` [V, h] gives logits over text, for rows that go from an ID to a title; `prefix` is φ₀, for rows behind
    soft tokens: validation then asks with them and without, and takes the mean.
    """
    dataset = phrases.dataset
    shares = Shares(config.profile_share, config.query_share, config.records_share)
    windows = WindowBuilder(dataset, builder, shares, config.seed, phrases)
    batches = WindowBatches(windows, FIT, config.window_items, config.batch)
    words = Words(dataset, builder, phrases, FIT, config.seed, config.words_batch, config.title_batch)
    soft = None
    if prefix is not None:
        longest = config.prompts.recent_items if config.soft_items is None else config.soft_items
        soft = SoftRows(
            dataset, builder, phrases, FIT, config.seed, config.soft_batch, longest, config.query_share
        )
    optimizer = torch.optim.AdamW(
        _parameter_groups(config, model, prefix),
        # one kernel instead of a dozen; on CPUs its last bits are others, and the form of codes and tokens keeps its own
        fused=model.device.type == "cuda" or config.head == "depth",
    )
    branches = model.head.branches if isinstance(model.head, DepthHead) else ()
    quick = config.head == "depth"
    dropout = BranchDropout(model.layers, config.dropout, config.seed, branches, quick)
    events = validation_events(dataset, config.validation_instances, config.seed)
    requests, targets = dataset.block(events, dataset.exclude_seen), dataset.items[events]

    def step(index: int) -> tuple[torch.Tensor, int]:
        windows = [*batches[index], *words.windows(index)]
        with dropout.on(index, model.device):
            loss = window_loss(model, windows, config.label_smoothing)
            if head is not None and config.title_weight:
                loss = loss + config.title_weight * text_loss(model, head, words.titles(index))
            if soft is not None and prefix is not None:
                loss = loss + config.soft_weight * soft.loss(model, prefix, index)
            if taught is not None:
                loss = loss + config.taught_weight * taught.loss(model, prefix, index)
        return loss, sum(len(window.items) for window in windows)

    def validate() -> float:
        ways = [Reading(model, builder), *([] if prefix is None else [Reading(model, builder, prefix)])]
        return sum(shared_hit_rate(way, requests, targets) for way in ways) / len(ways)

    return loop.fit(
        "Stage 1",
        config.steps,
        loop.trainable_state(model if prefix is None else nn.ModuleDict({"model": model, "prefix": prefix})),
        optimizer,
        step,
        checkpoint,
        schedule=lambda index: loop.cosine(index, config.steps, config.warmup),
        validate=validate,
        validate_every=config.validate_every,
        patience=config.patience,
        clip_norm=config.clip_norm,
    )


def _parameter_groups(
    config: AdaptConfig, model: SidModel, prefix: UserPrefix | None
) -> list[dict[str, Any]]:
    """The model's matrices and φ₀'s; and rows of codes, which start from nothing, do not decay and learn faster."""
    matrices = [parameter for parameter in model.inner.parameters() if parameter.requires_grad]
    rows = list(model.rows.parameters())
    if isinstance(model.reader, VectorReader):
        matrices += model.reader.parameters()
    if isinstance(model.head, DepthHead):
        rows.append(model.head.codes)
        matrices += [parameter for name, parameter in model.head.named_parameters() if name != "codes"]
    if prefix is not None:
        matrices += prefix.parameters()
    return [
        {"params": matrices, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": rows, "lr": config.rows_learning_rate, "weight_decay": 0.0},
    ]


def _understanding(config: AdaptConfig, reading: Reading, phrases: Phrases) -> dict[str, Any]:
    """precision@10 of answers to queries that training has read and to held-out ones;
    {} where the data has no words.
    """
    data, report = phrases.dataset, {}
    requests = data.block(validation_events(data, config.asked_queries, config.seed), False)
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
    return sample(events, at_most, seed, "validation")


def window_loss(model: SidModel, windows: list[Window], smoothing: float = 0.0) -> torch.Tensor:
    """−mean log p(item | what stands before it) over all targets of a batch of windows, in one packed pass; each times its weight.

    `smoothing`: of labels (`SidModel.path_log_probs`).
    """
    alike = not model.head.reads_nodes  # the form of codes and tokens keeps its order, and so its bits
    windows = sorted(windows, key=lambda window: len(window.tokens)) if alike else windows
    packed = model.pack([window.tokens for window in windows], alike)
    begins = zip(windows, packed.layout.begins, strict=True)
    start = np.concatenate([window.starts + begin for window, begin in begins])
    wanted = torch.from_numpy(start[:, None] - 1 + np.arange(model.head.states)).to(model.device)
    states = model.hidden(packed, NOTHING, wanted.reshape(-1)).view(*wanted.shape, -1)
    items = torch.from_numpy(np.concatenate([window.items for window in windows]))
    log_p = model.path_log_probs(states, items, smoothing=smoothing)
    if all(window.weights is None for window in windows):
        return -log_p.mean()
    ones = [np.ones(len(w.items)) if w.weights is None else w.weights for w in windows]
    return -(log_p * torch.from_numpy(np.concatenate(ones)).to(log_p)).mean()
