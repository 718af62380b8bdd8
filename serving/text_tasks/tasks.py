"""A text task from data to table: user vectors, Stage 1 where it is asked for, prefixes, answers.

Stages `task-vectors`, `task-adapt`, `task-prefixes`, `task-evaluate` of a run directory; each is skipped when
nothing that it reads has changed, and resumes when it was killed.

  popular        no language model: the answers' frequencies among training answers (tasks with labels)
  no_context     the model and the question
  prompt         and what is known of the person in words: the persona, and k records that BM25 finds
  static_prefix  one soft token that is about nobody, trained like e2p
  e2p            one soft token from the person's vector: the frozen backbone's last hidden state of persona
                 or history
  e2p_random     the trained e2p with another test user's vector, averaged over permutations
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from evaluation.text_tasks.results import comparison_table, figure_table, markdown
from llm.backbone.load import BackboneConfig, weights_hash
from llm.text_tasks.model import TextModel, load_text_model
from llm.text_tasks.training import (
    Examples,
    PrefixConfig,
    TaskAdaptConfig,
    adapt_text_model,
    merge_adapter,
    new_text_prefix,
    train_text_prefix,
    vectors_of,
    write_json,
)
from recsys import terminal
from recsys.config import StageConfig
from recsys.run import Run
from recsys.seeds import rng
from recsys.terminal import shown
from recsys.text_tasks.instances import Instance, TextTask, context_text, divide_users, profile_text
from recsys.text_tasks.load import TaskDataConfig, data_hash, load_task
from serving.text_tasks.measure import MeasureConfig, Measurer, results_of

Method = Literal["popular", "no_context", "prompt", "static_prefix", "e2p_random", "e2p"]
BASELINES = ("no_context", "static_prefix")  # what every row is tested against


class ContextConfig(StageConfig):
    records: int = Field(4, ge=0)  # k of BM25 (TAP-PER's RAG takes 1, 2 and 4)
    longest_prompt: int = Field(384, ge=16)  # tokens; beyond it the middle of a prompt is left out
    longest_answer: int = Field(64, ge=2)  # tokens of a training or scored answer


class VectorConfig(StageConfig):
    records: int = Field(8, ge=0)  # the latest records in the text behind a user's vector
    longest: int = Field(128, ge=1)  # tokens of it, its last
    batch: int = Field(8, ge=1)  # texts read at once


class TextTaskConfig(StageConfig):
    seed: int = 0
    data: TaskDataConfig = TaskDataConfig()
    backbone: BackboneConfig = BackboneConfig()
    chat: bool = True  # the tokenizer's chat template around a prompt, where it has one
    methods: tuple[Method, ...] = ("no_context", "prompt", "static_prefix", "e2p_random", "e2p")
    context: ContextConfig = ContextConfig()
    vectors: VectorConfig = VectorConfig()
    adapt: TaskAdaptConfig = TaskAdaptConfig()
    prefix: PrefixConfig = PrefixConfig()
    measure: MeasureConfig = MeasureConfig()

    @model_validator(mode="after")
    def _sensible(self) -> TextTaskConfig:
        if len(set(self.methods)) < len(self.methods) or not self.methods:
            raise ValueError(f"methods {', '.join(self.methods)}: name each once, and at least one")
        if "e2p_random" in self.methods and "e2p" not in self.methods:
            raise ValueError("e2p_random is the trained e2p with another's vector; add e2p to methods")
        if self.backbone.layers is not None and self.adapt.steps == 0:
            raise ValueError(
                f"backbone.layers {self.backbone.layers} cuts the layers that the text head was trained on; "
                "leave layers out, or train with adapt.steps"
            )
        return self

    @property
    def prefixes(self) -> tuple[str, ...]:
        return tuple(name for name in ("static_prefix", "e2p") if name in self.methods)


class TaskRun:
    """One task in one run directory.

    The task and the model are loaded when a stage that has work asks for them.
    """

    def __init__(self, config: TextTaskConfig, run: Run):
        self.config, self.run = config, run
        self.outside = {"data": data_hash(config.data)}

    @cached_property
    def task(self) -> TextTask:
        task = load_task(self.config.data, self.config.seed)
        if "popular" in self.config.methods and task.kind == "text":
            raise ValueError(f"method popular counts labels, and task {task.name} has none; leave it out")
        if self.config.prefixes and not task.validation:
            raise ValueError(
                f"task {task.name} has no validation instance, and validation picks the prefixes"
            )
        return task

    def model(self) -> TextModel:
        """The frozen model of Stage 2: the backbone, with Stage 1's adapter merged where there is one."""
        model = load_text_model(self.config.backbone, self.config.chat)
        if self.config.adapt.steps:
            model = merge_adapter(model, self._adapter())
        return model

    def _adapter(self) -> Path:
        self.run.artifact("task-adapt", "adapter/adapter_config.json")
        return self.run.artifact("task-adapt", "adapter/adapter_model.safetensors").parent

    @cached_property
    def stage_one_users(self) -> set[str]:
        """Training users of Stage 1, whom Stage 2 does not train on; nobody without a Stage 1."""
        if not self.config.adapt.steps:
            return set()
        users = (instance.user for instance in self.task.train)
        return divide_users(users, self.config.adapt.users_share, self.config.seed, "stage 1")

    def _needs(self, *names: str) -> list[str]:
        there = {"task-adapt": self.config.adapt.steps > 0, "task-vectors": bool(self.config.prefixes)}
        return [name for name in names if there.get(name, True)]

    def _part(self, **parts) -> StageConfig:
        """What a stage depends on, as one config for its fingerprint."""
        config = self.config
        return _Fingerprint(settings={
            "seed": config.seed, "data": config.data.model_dump(), "chat": config.chat,
            "backbone": config.backbone.model_dump(), **{name: part.model_dump() for name, part in parts.items()},
        })  # fmt: skip

    def prompt_text(self, instance: Instance, with_context: bool) -> str:
        context = context_text(instance, self.config.context.records) if with_context else ""
        return f"{context}\n\n{instance.input}" if context else instance.input

    def examples(self, model: TextModel, instances, vectors=None, contexts=None) -> Examples:
        """Tokenised instances; `contexts`: whether each one's prompt shows what is known of the person."""
        limits = self.config.context
        shown = contexts if contexts is not None else [False] * len(instances)
        return Examples(
            [
                model.prompt(self.prompt_text(instance, show), limits.longest_prompt)
                for instance, show in zip(instances, shown, strict=True)
            ],
            [model.answer(instance.target, limits.longest_answer) for instance in instances],
            vectors,
        )

    # -- stages ----------------------------------------------------------------------------------------------

    def vectors(self) -> None:
        """[n, h + 1] user vectors of all instances (train, validation, test); see `standardised`."""
        config = self.config
        stage = self.run.stage("task-vectors", self._part(vectors=config.vectors), outside=self.outside)
        if stage.is_done():
            return
        with stage.writing() as folder:
            task, model = self.task, load_text_model(config.backbone, config.chat)
            everybody = (*task.train, *task.validation, *task.test)
            texts = [profile_text(instance, config.vectors.records) for instance in everybody]
            found = vectors_of(model, texts, config.vectors.longest, config.vectors.batch, stage.checkpoint)
            found = standardised(found, len(task.train))
            ends = [len(task.train), len(task.train) + len(task.validation)]
            parts = zip(("train", "validation", "test"), found.tensor_split(ends), strict=True)
            save_file({name: part.contiguous() for name, part in parts}, folder / "vectors.safetensors")

    def adapt(self) -> None:
        config = self.config
        stage = self.run.stage(
            "task-adapt", self._part(adapt=config.adapt, context=config.context), outside=self.outside
        )
        if stage.is_done():
            return
        with stage.writing() as folder:
            model = load_text_model(config.backbone, config.chat)
            instances = [item for item in self.task.train if item.user in self.stage_one_users]
            shown = rng(config.seed, "context").random(len(instances)) < config.adapt.context_share
            examples = self.examples(model, instances, contexts=shown.tolist())
            report = adapt_text_model(config.adapt, model, examples, folder, stage.checkpoint, config.seed)
            write_json(folder / "adapt.json", report)

    def prefixes(self) -> None:
        config = self.config
        stage = self.run.stage(
            "task-prefixes",
            self._part(
                prefix=config.prefix,
                context=config.context,
                methods=_Fingerprint(settings={"m": config.prefixes}),
            ),
            needs=self._needs("task-vectors", "task-adapt"),
            outside=self.outside,
        )
        if stage.is_done():
            return
        with stage.writing() as folder:
            task, model, report = self.task, self.model(), {}
            before, vectors = weights_hash(model.inner), self.load_vectors()
            rows = [row for row, item in enumerate(task.train) if item.user not in self.stage_one_users]
            train = self.examples(model, [task.train[row] for row in rows], vectors["train"][rows])
            validation = self.examples(model, task.validation, vectors["validation"])
            for method in config.prefixes:
                path = folder / f"{method}.safetensors"
                report[method] = train_text_prefix(
                    config.prefix,
                    model,
                    method,
                    train,
                    validation,
                    path,
                    stage.checkpoint / method,
                    config.seed,
                )
            if weights_hash(model.inner) != before:
                raise RuntimeError("the frozen model changed during Stage 2; nothing was written")
            write_json(folder / "prefixes.json", report)

    def load_vectors(self) -> dict[str, torch.Tensor]:
        return load_file(self.run.artifact("task-vectors", "vectors.safetensors"))

    def evaluate(self) -> dict:
        """Measure every method on the test instances: `results.json`, `answers.jsonl` and `report.md`."""
        config = self.config
        needs = ["task-prefixes"] if config.prefixes else []
        stage = self.run.stage(
            "task-evaluate",
            self._part(
                measure=config.measure,
                context=config.context,
                methods=_Fingerprint(settings={"m": config.methods}),
            ),
            needs=[*needs, *self._needs("task-adapt")],
            outside=self.outside,
        )
        if not stage.is_done():
            with stage.writing() as folder:
                results = self._measure(stage.checkpoint, folder)
                write_json(folder / "results.json", results)
                report = markdown(
                    f"Text task {results['task']}", results["facts"], results["rows"], BASELINES
                )
                (folder / "report.md").write_text(report, encoding="utf-8")
        return self.run.read_json("task-evaluate", "results.json")

    def _measure(self, checkpoint: Path, folder: Path) -> dict:
        config, task, model = self.config, self.task, self.model()
        vectors = self.load_vectors() if config.prefixes else None
        trained, reports = {}, {}
        if vectors is not None:
            reports = self.run.read_json("task-prefixes", "prefixes.json")
            for method in config.prefixes:
                prefix = new_text_prefix(method, vectors["test"].shape[1], config.prefix, model, config.seed)
                prefix.load_state_dict(load_file(self.run.artifact("task-prefixes", f"{method}.safetensors")))
                trained[method] = prefix.eval().requires_grad_(False)
        measurer = Measurer(
            config.measure,
            task,
            model,
            {
                shown: self.examples(model, task.test, contexts=[shown] * len(task.test))
                for shown in (False, True)
            },
            trained,
            None if vectors is None else vectors["test"],
            config.seed,
        )
        said: dict[str, list] = {method: measurer.ask(method, checkpoint) for method in config.methods}
        with open(folder / "answers.jsonl", "w", encoding="utf-8") as file:
            for method, replicas in said.items():
                for replica, answers in enumerate(replicas):
                    file.write(json.dumps({"method": method, "replica": replica} | answers) + "\n")
        return results_of(measurer, said, reports, BASELINES)


class _Fingerprint(StageConfig):
    settings: dict


def standardised(vectors: torch.Tensor, n_train: int) -> torch.Tensor:
    """[n, h + 1]: each dimension less its mean and by its deviation over the first `n_train` rows,
    and a constant √h.

    A language model's states share one large direction, which would drown what differs between people;
    without any shared direction φ, whose W₁ has no bias, could not even do what the static control does. The
    constant gives it half of the squared norm. (E2P takes its vectors as they are.)
    """
    train = vectors[:n_train]
    found = (vectors - train.mean(0)) / train.std(0, correction=0).clamp_min(1e-6)
    return torch.cat([found, torch.full((len(found), 1), vectors.shape[1] ** 0.5)], dim=1)


def run_task(config: TextTaskConfig, run: Run, console: Console | None = None) -> dict:
    """All stages of a text task; prints the table and returns what `task-evaluate/results.json` holds."""
    console = console or Console()
    with run.lock():
        run.write_config(config.model_dump(mode="json"))
        task_run = TaskRun(config, run)
        if config.prefixes:
            task_run.vectors()
        if config.adapt.steps:
            task_run.adapt()
        if config.prefixes:
            task_run.prefixes()
        results = task_run.evaluate()
    print_results(results, console)
    console.print(shown(f"Report: {run.path / 'task-evaluate' / 'report.md'}"), highlight=False)
    return results


def print_results(results: dict, console: Console) -> None:
    """The figures, and the tests against each baseline, as tables."""
    for fact in results["facts"]:
        console.print(shown(fact), highlight=False)
    title = f"Text task {results['task']}: each figure above its 95 % interval over users"
    _print_table(title, *figure_table(results["rows"]), console)
    for baseline in BASELINES:
        table = comparison_table(results["rows"], baseline)
        if table is not None:
            _print_table(f"Against {baseline}: difference above p and p by Holm", *table, console)


def _print_table(title: str, headings: list[str], body: list[list[str]], console: Console) -> None:
    table = Table(title=terminal.title(title), title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(shown(heading), justify="left" if place == 0 else "right", no_wrap=place > 0)
    for cells in body:
        table.add_row(*(shown(cell, lines=True) for cell in cells))
    console.print(table)
