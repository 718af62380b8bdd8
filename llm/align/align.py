"""Stage `align`: prefixes and generated updates learn from labelled lists, the model frozen.

A row of the table is a method and an objective: `lm` (the likelihood of the desirable targets), `engagement`
(E2P eq. 5) or `kto` (KTO proper). The latter two start from the same method's lm row, and are held against a
reference: nobody's prefix, or that very snapshot. Rows learn from the same lists, each request with its query
in the prompt (lm from what was engaged with alone). What a generator that learns from feedback may lose is
watched: the entropy of what it draws, and how many of its draws are distinct.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from llm.align.config import AlignConfig, AlignRow
from llm.align.objectives import balanced_weights
from llm.align.targets import Feedback, LabelledWorld, Likelihood, Reference
from llm.backbone.load import weights_hash
from llm.decoding.recommender import SidRecommender
from llm.decoding.scoring import list_log_probs_of
from llm.methods.base import save_personalizer
from llm.methods.stage2 import World, train_by_gradient
from llm.prompts.reading import Personalizer, Reading
from llm.stage1.config import AdaptConfig
from recsys.artifacts.paths import RunError
from recsys.engagement.shown_lists import ShownLists
from recsys.run import Run
from recsys.terminal import escaped
from recsys.training import distributed

NEEDS = ("prepare", "embed", "tokenize", "adapt", "engagement")
DRAWS = 30  # of the collapse watch, a request


def align(config: AlignConfig, adapt_config: AdaptConfig, run: Run) -> None:
    """Run the stage; see the module. A killed stage resumes in the row that it was training.

    Raises `ValueError` for lists without both labels, or (target: list) with an item twice.
    """
    stage = run.stage("align", config, needs=NEEDS)
    if stage.is_done():
        return
    with stage.writing() as folder:
        world = labelled_world(World.load(run, adapt_config, config), config)
        world.folder = folder
        if world.dataset.relative_weights is not None and distributed.is_main():
            print("align: a shown item, or list, counts as one: the weights of events do not weigh here")
        before = weights_hash(world.model)
        report: dict[str, Any] = {
            "embedding_space": world.users.space,
            "table_hash": run.read_json("adapt", "adapt.json")["table_hash"],
            "target": config.target,
            "training": world.train.facts(),
            "validation": world.validation.facts(),
        }
        work = Alignment(config, world, stage.checkpoint)
        report["watch"] = {"requests": len(work.watched), "draws_a_request": DRAWS}
        report["rows"], curves = {}, {}
        for row in config.rows:
            for seed in config.seeds:
                part = work.train(row, seed)
                curves[f"{row.key}-{seed}"] = part.pop("curves")
                report["rows"][f"{row.key}-{seed}"] = part
        report["frozen_hash_before"], report["frozen_hash_after"] = before, weights_hash(world.model)
        if report["frozen_hash_after"] != before:
            raise RuntimeError("the frozen model changed during alignment; nothing was written")
        (folder / "align.json").write_text(json.dumps(report, indent=1))
        (folder / "curves.json").write_text(json.dumps(curves))
    if not distributed.is_main():
        return
    for name, part in report["rows"].items():
        print(f"align: {name}: {_in_words(part)}")
    print(f"align: the frozen model's hash is unchanged ({before[:16]}…)")


def labelled_world(world: World, config: AlignConfig) -> LabelledWorld:
    """The run's frozen things around the labelled instances of its `engagement` stage;
    none where it was exported without them.
    """
    has_lists = world.run.record("engagement") is not None or not world.run.exported()
    shown = ShownLists.load(world.run) if has_lists else ShownLists.none()
    return LabelledWorld.around(world, config, shown, config.target)


def load_aligned(world: World, config: AlignConfig, row: AlignRow, seed: int) -> Reading:
    """A trained replica of a row. Refuses one trained against another table or another embedding space."""
    run, report = world.run, world.run.read_json("align", "align.json")
    if report["table_hash"] != run.read_json("adapt", "adapt.json")["table_hash"]:
        raise RunError(
            f"the row {row.key} in {run.path}/align was trained against another semantic-ID table; run: prelude align {run.path}"
        )
    if report["embedding_space"] != world.users.space:
        raise RunError(
            f"the row {row.key} in {run.path}/align was trained in embedding space {report['embedding_space']!r}, the user "
            f"vectors are of {world.users.space!r}; run: prelude align {run.path}"
        )
    return row.trained.load(labelled_world(world, config), seed)


class Alignment:
    """The stage at work: trains rows one after the other, each against its reference."""

    def __init__(self, config: AlignConfig, world: LabelledWorld, checkpoint: Path):
        self.config, self.world, self.checkpoint = config, world, checkpoint
        first = {request.request_id: request for request in world.validation.requests}
        self.watched = list(first.values())[: config.watched_requests]
        self._watches: dict[str, dict[str, float]] = {}

    def train(self, row: AlignRow, seed: int) -> dict[str, Any]:
        """Train a replica, write it, and say what `align.json` says of it."""
        config, world, method = self.config, self.world, row.trained
        method.prepare(world, self.checkpoint)
        reference = self.reference(row)
        objective = self._objective(row, reference)
        rates, steps = method.learning_rates or config.learning_rates, method.steps or config.steps
        start, untrained = self._fresh(row, seed)
        untrained.eval()
        at_start = objective.value(start, seed)
        module, report = train_by_gradient(
            row.name, world, lambda seed: self._fresh(row, seed), seed, self.checkpoint / f"{row.key}-{seed}",
            self.checkpoint / f"pilots-{row.key}", rates, steps, objective,
        )  # fmt: skip
        assert isinstance(module, Personalizer)
        assert world.folder is not None
        save_personalizer(module, world.folder / f"{row.key}-{seed}.safetensors")
        reading = method.reading(world, module)
        report |= {
            "method": row.method.method,
            "objective": row.objective,
            "validation_minus_loss_at_start": at_start,
            "validation_auc_of_the_log_ratio": self._auc(reading, reference, seed),
        }
        if isinstance(objective, Feedback):
            named = {"start": row.start, "reference": config.reference_of(row), "beta": objective.beta}
            report |= named | {"weights": objective.weights}
        return report | {"watch": self._beside_reference(row, seed, reading, reference)}

    def plain(self, row: AlignRow) -> Reading:
        """The frozen model with the row's prompt: no prefix, no bridge, no generated update."""
        return row.trained.reading(self.world, None)

    def reference(self, row: AlignRow) -> Reference:
        """The row's π_ref. An lm row is trained without one; its log-ratio is to no personalization."""
        steps = row.trained.steps or self.config.steps
        if row.objective != "lm" and self.config.reference_of(row) == "lm_snapshot":
            snapshot = self._snapshot(row)
            return Reference(
                self.world,
                lambda seed: snapshot.trained.load(self.world, seed),
                lambda seed: f"{snapshot.key}-{seed}",
                self.checkpoint,
                steps,
            )
        name = "plain" if row.trained.prompt is None else f"plain-{row.key}"
        return Reference(self.world, lambda seed: self.plain(row), lambda seed: name, self.checkpoint, steps)

    def _snapshot(self, row: AlignRow) -> AlignRow:
        snapshot = self.config.lm_row(row)
        assert snapshot is not None, "AlignConfig refuses rows without"
        return snapshot

    def _objective(self, row: AlignRow, reference: Reference) -> Likelihood | Feedback:
        if row.objective == "lm":
            return Likelihood(self.world)
        weights = self._weights(row)
        return Feedback(self.world, row.objective, reference, self.config.beta, weights)

    def _weights(self, row: AlignRow) -> dict[str, float]:
        """α, or λ_D and λ_U: as configured, else such that neither kind of target outweighs the other."""
        config, counts = self.config, self.world.train.facts()
        if row.objective == "engagement" and config.alpha is not None:
            return {"alpha": config.alpha}
        if row.objective == "kto" and config.desirable_weight and config.undesirable_weight:
            return {"desirable": config.desirable_weight, "undesirable": config.undesirable_weight}
        desirable, undesirable = balanced_weights(counts["desirable"], counts["undesirable"])
        if row.objective == "engagement":
            return {"alpha": undesirable / desirable}
        return {"desirable": desirable, "undesirable": undesirable}

    def _fresh(self, row: AlignRow, seed: int) -> tuple[Reading, torch.nn.Module]:
        """A personalizer to train, from where the row starts, and its reading."""
        method, device = row.trained, self.world.model.device
        personalizer = method.new(self.world, seed).to(device)
        if row.starts_trained:
            path = self.world.made(f"{self._snapshot(row).key}-{seed}.safetensors")
            personalizer.load_state_dict(load_file(path))
        return method.reading(self.world, personalizer), personalizer

    def _auc(self, reading: Reading, reference: Reference, seed: int) -> float | None:
        """How well r = log π − log π_ref tells engaged from not engaged on validation;
        None where there is only one kind.
        """
        from sklearn.metrics import roc_auc_score

        some = self.world.validation
        if some.labels.all() or not some.labels.any():
            return None
        ratio = list_log_probs_of(reading, some.requests, some.lists)
        return float(
            roc_auc_score(some.labels, ratio - reference.log_probs("validation", seed).cpu().numpy())
        )

    def watch(self, reading: Reading) -> dict[str, float]:
        """Of 30 i.i.d. draws a validation request at temperature 1:
        mean −log p (nats), and the share of distinct items.
        """
        items, log_probs = SidRecommender("watched", reading).draw(self.watched, DRAWS)
        self.world.model.kept_session = None  # nobody asks for these requests again
        distinct = np.mean([len(np.unique(row)) / DRAWS for row in items])
        return {"entropy": float(-log_probs.mean()), "distinct_share": float(distinct)}

    def _beside_reference(
        self, row: AlignRow, seed: int, reading: Reading, reference: Reference
    ) -> dict[str, Any]:
        name = reference.name(seed)
        if name not in self._watches:
            self._watches[name] = self.watch(reference.of(seed))
        of_row, of_reference = self.watch(reading), self._watches[name]
        collapsed = [kind for kind, value in of_row.items() if value < of_reference[kind] / 2]
        for kind in collapsed if distributed.is_main() else ():
            print(
                f"align: warning: {escaped(row.name)}, seed {seed}, is collapsing: {kind.replace('_', ' ')} {of_row[kind]:.3f} against "
                f"{of_reference[kind]:.3f} of its reference; raise align.beta, or lower the learning rate"
            )
        return of_row | {"reference": of_reference, "collapsed": bool(collapsed)}


def _in_words(part: dict[str, Any]) -> str:
    auc, watch = part["validation_auc_of_the_log_ratio"], part["watch"]
    return (
        f"{part['trainable_parameters']:,} trainable parameters at lr {part['learning_rate']:g}; validation loss "
        f"{-part['validation_minus_loss_at_start']:.4f} at the start, {-part['validation_minus_loss']:.4f} at step "
        f"{part['best_step']}; AUC of the log-ratio {'–' if auc is None else f'{auc:.3f}'}; entropy {watch['entropy']:.2f}, "
        f"{watch['distinct_share']:.0%} of draws distinct"
    )
