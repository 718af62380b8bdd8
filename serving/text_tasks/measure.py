"""What each method says of each test instance of a text task, and the table made of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from evaluation.text_tasks.metrics import Rouge, expected_rating
from evaluation.text_tasks.results import Figure, Measured, tabulate
from llm.text_tasks.model import TextModel
from llm.text_tasks.training import Examples, other_users
from recsys.config import StageConfig
from recsys.seeds import derive
from recsys.text_tasks.instances import TextTask

# log_probs [N][L] of labels; or nll [N], tokens [N] and answers [n] of the first n instances
Said = dict[str, Any]


class MeasureConfig(StageConfig):
    batch: int = Field(8, ge=1)  # instances read at once
    random_permutations: int = Field(5, ge=5)  # of other users' vectors, for e2p_random
    generated_instances: int | None = Field(None, ge=0)  # the first so many are answered for ROUGE; None: all
    longest_answer: int | None = Field(None, ge=1)  # tokens of a generated answer; None: what the task says
    bootstrap_samples: int = Field(2000, ge=100)  # for macro F1


class Measurer:
    """Asks every method the test questions. `examples[shown]` are the prompts without and with context."""

    def __init__(
        self,
        config: MeasureConfig,
        task: TextTask,
        model: TextModel,
        examples: Mapping[bool, Examples],
        prefixes: Mapping[str, torch.nn.Module],
        vectors: Tensor | None,
        seed: int,
    ):
        self.config, self.task, self.model, self.seed = config, task, model, seed
        self.examples, self.prefixes, self.vectors = examples, prefixes, vectors
        self.users = np.array([instance.user for instance in task.test])

    def ask(self, method: str, checkpoint: Path) -> list[Said]:
        """What the method says, once a replica. A replica already in `checkpoint` is not asked again."""
        n_replicas = self.config.random_permutations if method == "e2p_random" else 1
        found = []
        for replica in range(n_replicas):
            path = checkpoint / f"{method}-{replica}.json"
            if not path.exists():
                said = self._popular() if method == "popular" else self._ask(method, replica)
                temporary = path.with_suffix(".tmp")
                temporary.write_text(json.dumps(said))
                temporary.replace(path)
            found.append(json.loads(path.read_text()))
        return found

    def _popular(self) -> Said:
        """log((count + 1) / (n + labels)) of each instance's labels among the training answers."""
        counts = Counter(instance.target for instance in self.task.train)
        rows = [[np.log(counts[label] + 1) for label in item.labels or ()] for item in self.task.test]
        return {"log_probs": [(np.array(row) - np.logaddexp.reduce(row)).tolist() for row in rows]}

    @torch.no_grad()
    def _ask(self, method: str, replica: int) -> Said:
        examples = self.examples[method == "prompt"]
        soft = self._soft(method, replica)
        size, n = self.config.batch, len(examples)
        parts = [range(start, min(start + size, n)) for start in range(0, n, size)]
        if self.task.kind != "text":
            found: list[list[float]] = []
            for rows in parts:
                prompts, _ = examples.pick(rows)
                labels = [
                    [self.model.answer(label) for label in self.task.test[row].labels or ()] for row in rows
                ]
                taken = None if soft is None else soft[list(rows)]
                found += [row.tolist() for row in self.model.label_log_probs(prompts, labels, taken)]
            return {"log_probs": found}
        nll: list[float] = []
        for rows in parts:
            taken = None if soft is None else soft[list(rows)]
            nll += (-self.model.log_probs(*examples.pick(rows), taken)).tolist()
        return {
            "nll": nll,
            "tokens": [len(answer) for answer in examples.answers],
            "answers": self._write(examples, soft, parts),
        }

    def _write(self, examples: Examples, soft: Tensor | None, parts: Sequence[range]) -> list[str]:
        limit = self.config.generated_instances
        answers: list[str] = []
        for rows in parts:
            chosen = [row for row in rows if limit is None or row < limit]
            if chosen:
                answers += self.model.generate(
                    examples.pick(chosen)[0],
                    None if soft is None else soft[chosen],
                    longest=self.config.longest_answer or self.task.longest_answer,
                )
        return answers

    def _soft(self, method: str, replica: int) -> Tensor | None:
        """Soft tokens [N, 1, h] of the test instances; None for methods without a prefix."""
        name = "e2p" if method == "e2p_random" else method
        if name not in self.prefixes:
            return None
        assert self.vectors is not None
        vectors = self.vectors
        if method == "e2p_random":
            rows = other_users(self.users.tolist(), self.config.random_permutations, self.seed)
            vectors = vectors[rows[replica]]
        return self.prefixes[name](vectors.to(self.model.device))

    def facts(self, method: str) -> dict[str, Any]:
        """Tokens that the method adds to a prompt (mean), and parameters that it trained."""
        name = "e2p" if method == "e2p_random" else method
        added = np.mean([
            len(with_context) - len(without)
            for with_context, without in zip(self.examples[True].prompts, self.examples[False].prompts, strict=True)
        ]) if method == "prompt" else float(name in self.prefixes)  # fmt: skip
        prefix = self.prefixes.get(name)
        count = 0 if prefix is None else sum(tensor.numel() for tensor in prefix.parameters())
        return {"tokens_added": float(added), "parameters": count}


def results_of(
    measurer: Measurer, said: Mapping[str, list[Said]], reports: Mapping[str, Any], baselines: Sequence[str]
) -> dict[str, Any]:
    """What `results.json` holds: the task, facts in sentences, and a row a method."""
    task, config = measurer.task, measurer.config
    labels = sorted({label for item in task.test for label in item.labels or ()})
    measured = {
        method: Measured(*_figures(task, replicas, labels), measurer.facts(method))
        for method, replicas in said.items()
    }
    targets = np.array([labels.index(item.target) for item in task.test]) if task.kind == "labels" else None
    seed = derive(measurer.seed, "text results")
    rows = tabulate(measured, measurer.users, targets, len(labels), baselines, config.bootstrap_samples, seed)
    n_users = len(np.unique(measurer.users))
    return {
        "task": task.name,
        "kind": task.kind,
        "facts": [
            f"{len(task.test):,} test instances of {n_users:,} users; {len(task.train):,} training and "
            f"{len(task.validation):,} validation instances.",
            *task.notes,
            *_sentences(task, said),
            *(
                f"{method}: learning rate {report['learning_rate']:g} by validation, best step "
                f"{report['best_step']}, "
                f"validation {report['validation_nll']:.4f} nats a token."
                for method, report in reports.items()
            ),
            "Figures are means over users of their instances' means; p are paired t-tests over users (macro "
            "F1: "
            "bootstrap over users), Holm within a column.",
        ],
        "rows": rows,
    }


def _sentences(task: TextTask, said: Mapping[str, list[Said]]) -> list[str]:
    if task.kind != "text":
        return ["nll: nats of the right label among the labels. Differences of rmse are of squared stars."]
    generated = len(next(iter(said.values()))[0]["answers"])
    return [
        "Perplexity is exp of mean nats a token, the answer's end included; its differences are nats a "
        "token. "
        f"ROUGE is of {generated} greedy answers."
    ]


def _figures(task: TextTask, replicas: list[Said], labels: Sequence[str]) -> tuple[dict[str, Figure], Any]:
    """Figures [N, K] by name, and for labels the predictions [N, K]."""
    if task.kind == "text":
        return _text_figures(task, replicas), None
    own = [list(item.labels or ()) for item in task.test]
    wanted = np.array([names.index(item.target) for names, item in zip(own, task.test, strict=True)])
    probs = [said["log_probs"] for said in replicas]
    best = np.array([[int(np.argmax(row)) for row in rows] for rows in probs]).T
    nll = np.array([[-row[at] for row, at in zip(rows, wanted, strict=True)] for rows in probs]).T
    if task.kind == "labels":
        number = {label: place for place, label in enumerate(labels)}
        predicted = np.array(
            [[number[names[at]] for at in row] for names, row in zip(own, best, strict=True)]
        )
        right = (best == wanted[:, None]).astype(float)
        return {"accuracy": Figure(right), "nll": Figure(nll)}, predicted
    stars = np.array([[float(name) for name in names] for names in own])
    truth = np.take_along_axis(stars, wanted[:, None], 1)
    expected = np.array(
        [
            [expected_rating(np.array(row), values) for row, values in zip(rows, stars, strict=True)]
            for rows in probs
        ]
    ).T
    errors = {"expected": expected - truth, "argmax": np.take_along_axis(stars, best, 1) - truth}
    figures = {f"mae_{name}": Figure(np.abs(error)) for name, error in errors.items()}
    figures |= {f"rmse_{name}": Figure(error**2, "root") for name, error in errors.items()}
    return figures | {"nll": Figure(nll)}, None


def _text_figures(task: TextTask, replicas: list[Said]) -> dict[str, Figure]:
    nll = np.array([np.array(said["nll"]) / np.array(said["tokens"]) for said in replicas]).T
    figures = {"perplexity": Figure(nll, "exp")}
    rouge = Rouge()
    scores = np.full((len(task.test), len(replicas), len(Rouge.NAMES)), np.nan)
    for column, said in enumerate(replicas):
        for row, answer in enumerate(said["answers"]):
            scores[row, column] = list(rouge.scores(task.test[row].target, answer).values())
    if len(replicas[0]["answers"]):
        figures |= {name: Figure(scores[:, :, place]) for place, name in enumerate(Rouge.NAMES)}
    return figures
