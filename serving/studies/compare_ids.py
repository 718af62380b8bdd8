"""Does an ID-quality score predict the generator's recall? Stage 1 is trained on several tables of IDs.

    RUN/prepare, RUN/embed       made once
    RUN/ids/NAME/                a run of its own: config.yaml, tokenize, adapt, validate; prepare and embed
                                 are links to RUN's
    RUN/compare_ids.json, .png   the variants by recall, and each score's rank correlation with it
    RUN/compare_ids_hit_rate.png the same picture of the expected hit-rate@30

Figures are of VALIDATION instances, never of the test. Stage 1 keeps its best step by a sample of the same
instances, so they are a little too good, for every variant alike. Any variant can be gone on with:
`prelude run --run RUN/ids/NAME`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field
from rich.console import Console
from rich.table import Table

from evaluation.metrics import expected_hit, ndcg_at_k, pad_lists, recall_at_k
from evaluation.report.curves import named_points
from evaluation.report.terminal import wide
from evaluation.statistics import mean_interval, rank_correlation, user_means
from llm.decoding.recommender import SidRecommender
from llm.prompts.reading import Reading
from llm.stage1.adapt import validation_events
from llm.stage1.model import load_adapted, prompt_builder
from recsys.artifacts.paths import RunError
from recsys.artifacts.rewrite import write_text_atomically
from recsys.config import StageConfig
from recsys.data.dataset import Dataset
from recsys.run import Run
from recsys.terminal import shown
from semantic_ids.scores import SCORES, scores_of
from serving.answering.untrained import BASELINES, NO_CONTEXT
from serving.config.run import RunConfig
from serving.config.values import validated
from serving.pipeline import run_stage

SHARED = ("prepare", "embed")  # stages that all variants have from the run around them
RECALL, NDCG, HIT = "recall@10", "ndcg@10", "expected_hit_rate@30"
DEPTH, DRAWS = 10, 30
# the expected hit-rate is told more exactly than recall by as many users, as no draw or cut is in it
PICTURES = {"compare_ids.png": RECALL, "compare_ids_hit_rate.png": HIT}
SHORT = {"transition_nats": "nats", "transition_hit_rate@30": "count hit@30", "neighbours_first": "near 1",
         "neighbours_first_two": "near 2", "relative_error": "error", "share_moved": "moved", "entropy_first": "entropy 1",
         "entropy_mean": "entropy"}  # fmt: skip


class ValidateConfig(StageConfig):
    instances: int = Field(0, ge=0)  # validation instances, a seeded sample; 0: all
    seed: int = 0


def read_variants(path: Path, config: RunConfig) -> dict[str, RunConfig]:
    """The configuration of each variant of a YAML file (name → changes of `tokenize`), in the file's order.

    A section in the changes (`rqvae`) is merged into the configuration's. Raises `ValueError` that names file
    and variant.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of variants")
    try:
        named = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(named, dict) or not named:
        raise ValueError(f"{path}: expected a mapping, name: {{source: text, levels: 2, …}} for each variant")
    found = {}
    for name, changes in named.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"{path}: variant {name!r}: a name becomes a folder; use letters, digits, '.', '_' and '-'"
            )
        if not isinstance(changes or {}, dict):
            raise ValueError(f"{path}: variant {name!r}: expected changes of tokenize, found {changes!r}")
        values = config.model_dump(mode="json")
        values["tokenize"] = _merged(values["tokenize"], changes or {})
        found[name] = validated(RunConfig, values, f"{path}: variant {name!r}")
    return found


def _merged(base: dict, changes: dict) -> dict:
    return base | {
        key: _merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in changes.items()
    }


def compare(
    config: RunConfig, variants: Mapping[str, RunConfig], run: Run, train: bool = True, instances: int = 0
) -> dict[str, Any]:
    """The report.

    With `train` it is written to `compare_ids.json` too, after every variant, and drawn in the end.

    Without, variants have scores alone and nothing is written but their tables.
    """
    asked = ValidateConfig(instances=instances, seed=config.evaluate.seed)
    with run.lock():
        run.write_config(config.model_dump(mode="json"))
        for stage in SHARED:
            run_stage(stage, config, run)
        dataset = Dataset.load(run)
        rows = [_tokenized(name, variant, run, dataset) for name, variant in variants.items()]
        if not train:
            return _report(rows, asked, config)
        for row, (name, variant) in zip(rows, variants.items(), strict=True):
            row |= _measured(variant, Run.create(run.path / "ids" / name), dataset, asked)
            report = _report(rows, asked, config)
            write_text_atomically(run.path / "compare_ids.json", json.dumps(report, indent=1))
            print(f"compare-ids: {name}: {RECALL} {row[RECALL]:.4f}, {HIT} {row[HIT]:.4f}", flush=True)
    for name, figure in PICTURES.items():
        partial = run.path / f".partial-{name}"
        partial.write_bytes(_picture(report, figure))
        os.replace(partial, run.path / name)
    return report


def _tokenized(name: str, variant: RunConfig, run: Run, dataset: Dataset) -> dict[str, Any]:
    """The variant's own run up to `tokenize`, and its scores."""
    own = Run.create(run.path / "ids" / name)
    for stage in SHARED:
        _link(own.path / stage, run.path / stage)
    with own.lock():
        own.write_config(variant.model_dump(mode="json"))
        run_stage("tokenize", variant, own)
    tokenize = variant.tokenize.model_dump(mode="json")
    return {"name": name, "tokenize": tokenize, "scores": scores_of(own, dataset)}


def _link(link: Path, stage: Path) -> None:
    """A relative link, so that the run may be moved,
    and a deletion of a person in the run is one in its variants too.
    """
    target = os.path.relpath(stage.resolve(), link.parent.resolve())
    if link.is_symlink() and os.readlink(link) == target:
        return
    if link.exists() or link.is_symlink():
        raise RunError(f"{link} is in the way: variants link to {stage}; move it, or delete {link.parent}")
    link.symlink_to(target, target_is_directory=True)


def _measured(variant: RunConfig, own: Run, dataset: Dataset, asked: ValidateConfig) -> dict[str, Any]:
    """Figures of the variant's Stage 1 model, trained and measured where that is not done."""
    with own.lock():
        run_stage("adapt", variant, own)
        stage = own.stage("validate", asked, needs=("prepare", "tokenize", "adapt"))
        if not stage.is_done():
            with stage.writing() as folder:
                figures = _figures(variant, own, dataset, asked)
                (folder / "validate.json").write_text(json.dumps(figures, indent=1))
    record = own.record("adapt")
    assert record is not None
    return {**own.read_json("validate", "validate.json"), "adapt_s": record["seconds"]}


def _figures(variant: RunConfig, own: Run, dataset: Dataset, asked: ValidateConfig) -> dict[str, Any]:
    """Means over users of Recall@10 and NDCG@10 by beam,
    and of the expected hit-rate of 30 draws at temperature 1.
    """
    model = load_adapted(own, variant.adapt)
    reading = Reading(model, prompt_builder(variant.adapt, model, dataset))
    method = SidRecommender(BASELINES[NO_CONTEXT].name, reading, variant.evaluate.memory_mb << 20)
    events = validation_events(dataset, asked.instances, asked.seed)
    requests, targets = dataset.block(events, dataset.exclude_seen), dataset.items[events]
    ranked = pad_lists([answer.items for answer in method.recommend(requests, DEPTH)], DEPTH)
    values = np.stack(
        [
            recall_at_k(ranked, targets, DEPTH),
            ndcg_at_k(ranked, targets, DEPTH),
            expected_hit(method.log_prob(requests, targets), DRAWS),
        ],
        axis=1,
    )
    users, means = user_means(values, dataset.users[events])
    found: dict[str, Any] = {"instances": len(events), "users": len(users)}
    for name, column in zip((RECALL, NDCG, HIT), means.T, strict=True):
        found |= {name: float(column.mean()), f"{name}_ci95": mean_interval(column)}
    return found


def _report(rows: Sequence[dict[str, Any]], asked: ValidateConfig, config: RunConfig) -> dict[str, Any]:
    """The variants, best recall first, those without any last; and correlations over those that have one."""
    ordered = sorted(rows, key=lambda row: -row.get(RECALL, -1.0))
    return {
        "role": "validation",
        "instances_asked": asked.instances or "all",
        "note": "Stage 1 of one seed a variant; p by permutation of the variants, not corrected for the number of scores",
        "adapt": config.adapt.model_dump(mode="json"),
        "variants": ordered,
        "correlations": _correlations([row for row in ordered if RECALL in row], config.seed),
    }


def _correlations(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    found = []
    for score, facts in SCORES.items():
        some = [row for row in rows if score in row["scores"]]
        one: dict[str, Any] = {"score": score, "better": "higher" if facts.higher_is_better else "lower"}
        x = np.array([row["scores"][score] for row in some])
        for figure in (RECALL, HIT):
            rho, p = rank_correlation(x, np.array([row[figure] for row in some]), seed)
            one[figure] = {"rho": rho, "p": p}
        found.append({**one, "variants": len(some)})
    return found


def _picture(report: dict[str, Any], figure: str) -> bytes:
    """One panel a score, `figure` upwards."""
    panels = {}
    for one in report["correlations"]:
        score, told = one["score"], one[figure]
        some = [row for row in report["variants"] if score in row["scores"]]
        if some:
            rho = "" if told["rho"] is None else f": ρ = {told['rho']:+.2f}, p = {told['p']:.2g}"
            panels[f"{score}{rho}"] = [
                (row["scores"][score], row[figure], row[f"{figure}_ci95"], row["name"]) for row in some
            ]
    return named_points(panels, f"{figure} on validation, 95 % over users")


def print_comparison(report: dict[str, Any], console: Console) -> None:
    """The variants, best recall first, with their scores; and what goes with recall."""
    scores = [name for name in SCORES if any(name in row["scores"] for row in report["variants"])]
    measured = any(RECALL in row for row in report["variants"])
    table = Table(
        title="Semantic IDs, by recall on validation" if measured else "Semantic IDs", title_justify="left"
    )
    table.add_column("variant")
    figures = (RECALL, NDCG, HIT) if measured else ()
    for column in (*figures, *(SHORT[name] for name in scores)):
        table.add_column(column.replace("expected_hit_rate", "hit"), justify="right")
    for row in report["variants"]:
        cells = [f"{row[figure]:.4f}" if figure in row else "" for figure in figures]
        cells += [f"{row['scores'][name]:.3f}" if name in row["scores"] else "" for name in scores]
        table.add_row(shown(row["name"]), *cells)
    wide(console).print(table)
    if not measured:
        return
    table = Table(title="Spearman's ρ of each score with the figures, and its p", title_justify="left")
    for column in ("score", "better, one would think", "variants", RECALL, "p", HIT, "p"):
        table.add_column(column, justify="left" if column.startswith(("score", "better")) else "right")
    for one in report["correlations"]:
        told = [cell for figure in (RECALL, HIT) for cell in _shown(one[figure])]
        table.add_row(one["score"], one["better"], str(one["variants"]), *told)
    wide(console).print(table)
    console.print(shown(report["note"]))


def _shown(told: dict[str, float | None]) -> tuple[str, str]:
    rho, p = told["rho"], told["p"]
    return ("–", "–") if rho is None or p is None else (f"{rho:+.3f}", f"{p:.3g}")
