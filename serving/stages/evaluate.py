"""Stage `evaluate`: the rows of the table, asked about every test instance of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from evaluation.softmax import SoftmaxOver
from evaluation.table.comparisons import Measured
from evaluation.table.instances import Question
from evaluation.table.job import Chunk, Elsewhere, Keep, chunk_measurer, evaluate_rows
from evaluation.table.kept import save_instances
from evaluation.table.results import Results
from evaluation.table.rows import Row
from recsys.data.dataset import Dataset
from recsys.data.splits import TEST, WARM
from recsys.recommender import Request
from recsys.run import Run
from serving.answering.methods import Methods
from serving.config.run import RunConfig
from serving.engines.base import Engine, Work
from serving.stages.costs import measure_costs
from serving.stages.default_method import choose_default
from serving.stages.names import COMBINED_STAGES, STAGES
from serving.stages.people import people_lists
from serving.stages.prefix_picture import prefix_picture
from serving.stages.queries import queries_table
from serving.stages.rows import MATCHED, table_rows

ACTIVITY = (0, 1, 5, 20, 50, 200)  # the least number of events before an instance at each level of activity


def evaluate(config: RunConfig, run: Run, quiet: bool = False, engine: Engine | None = None) -> Results:
    """Run the stage: `results.json`, per-instance figures and the data of the pictures.
    Needs every other stage.

    With an `engine` its workers measure; the results are the same for every engine and number of workers.
    """
    stages = STAGES if config.combine is None else COMBINED_STAGES
    stage = run.stage("evaluate", config.evaluate, needs=stages[:-1])
    if not stage.is_done():
        methods = Methods(run, config, config.evaluate.int8)
        question, facts = _question(methods)
        with stage.writing() as folder:
            rows = table_rows(methods, question)
            facts |= {"weights": methods.int8_effect or "as trained"}
            elsewhere = None if engine is None else _elsewhere(engine, config, run, rows, stage.checkpoint)
            data = methods.dataset
            new = data.item_totals.last[question.targets] < 0
            groups = _groups(data.user_groups, question.requests, question.users, new)
            results = evaluate_rows(
                config.evaluate, rows, question, stage.checkpoint, facts, quiet=quiet, groups=groups,
                elsewhere=elsewhere, keep=_keeper(folder, data),
            )  # fmt: skip
            results.write(folder / "results.json")
            (folder / "costs.json").write_text(json.dumps(measure_costs(methods, question.requests, quiet)))
            chosen = choose_default(methods, rows, quiet) if config.evaluate.default_instances else None
            if chosen is not None:
                (folder / "default.json").write_text(json.dumps(chosen, indent=1))
            (folder / "queries.json").write_text(json.dumps(queries_table(methods, chosen), indent=1))
            people = people_lists(methods, question, chosen)
            (folder / "people.json").write_text(json.dumps(people, ensure_ascii=False), encoding="utf-8")
            (folder / "prefixes.json").write_text(json.dumps(prefix_picture(methods)))
    return Results.read(run.artifact("evaluate", "results.json"))


def _keeper(folder: Path, data: Dataset) -> Keep:
    def keep(names: Sequence[str], measured: Sequence[Measured], asked: Question) -> None:
        save_instances(folder, names, measured, asked, data.user_ids, data.catalogue.item_ids)

    return keep


def _elsewhere(
    engine: Engine, config: RunConfig, run: Run, rows: Sequence[Row], checkpoint: Path
) -> Elsewhere:
    """Chunks measured by an engine's workers, each of which builds the same rows from the run."""
    chosen = {row.name: row.temperature for row in rows if row.temperature is not None}
    chosen |= {one.name: one.t0 for row in rows for one in row.replicas if type(one) is SoftmaxOver}
    chosen |= {row.name + MATCHED: row.matched for row in rows if row.matched is not None}
    work = Work(
        "serving.stages.evaluate:measurer",
        {
            "config": config.model_dump(mode="json"),
            "run": str(run.path.absolute()),
            "checkpoint": str(checkpoint.absolute()),
            "chosen": chosen,
        },
    )

    def measure(chunks: Sequence[Chunk]) -> Iterator[Chunk]:
        for task, _ in engine.run(work, chunks):
            row, replica, start = task
            yield int(row), int(replica), int(start)

    return measure


def measurer(config: dict, run: str, checkpoint: str, chosen: dict[str, float]) -> Callable[[Chunk], None]:
    """A worker of an evaluation (`chosen`: the temperatures that validation chose):
    a function of one chunk.
    """
    resolved = RunConfig.model_validate(config)
    methods = Methods(Run.open(run), resolved, resolved.evaluate.int8)
    question, _ = _question(methods)
    rows = table_rows(methods, question, chosen)
    return chunk_measurer(resolved.evaluate, rows, question, Path(checkpoint))


def _question(methods: Methods) -> tuple[Question, dict]:
    """All test instances that can be answered, and what the protocol says of them;
    the job takes its own sample.
    """
    data = methods.dataset
    events = data.instances(TEST)
    dropped = len(data.events(TEST)) - len(events)
    facts = {
        "split": methods.config.prepare.split.model_dump(mode="json"),
        "user_split": methods.config.prepare.user_split.model_dump(mode="json"),
        "users_in_data": len(data.user_numbers),
        "items": data.n_items,
        "exclude_seen": data.exclude_seen,
        "exclusions": "the distribution as a whole, in every row; lists are exact ranks"
        + ("; temperature on items (serving: on codes)" if methods.config.evaluate.whole_catalogue else ""),
        "repeats_left_out_of_test": dropped,
        "recent_items_in_prompt": methods.config.adapt.prompts.recent_items,
        "backbone": methods.config.adapt.backbone.name,
        "backbone_layers": methods.config.adapt.backbone.layers,
        "training_seeds": list(methods.config.personalize.seeds),
        "departures": (
            "Our semantic IDs may carry collaborative vectors (the E2P paper quantises content), and our No "
            "Context is the model adapted in Stage 1 (the paper's is a vanilla LLM)."
        ),
    }
    if methods.config.embed.item_knn is None:
        facts["left_out"] = "Item-kNN (embed.item_knn: null)"
    requests = data.requests(events, data.exclude_seen)
    return Question(requests, data.items[events], data.users[events]), facts


def _groups(
    user_groups: np.ndarray, requests: Sequence[Request], users: np.ndarray, new: np.ndarray | None = None
) -> dict[str, list[str]]:
    """Labels of the instances: what the user split made of their user (where there is one), how active they
    were, and, where some of the items that are asked for are `new` [R] (no training event has them), which.
    """
    names = ["0", *(f"{low}-{high - 1}" for low, high in pairwise(ACTIVITY[1:])), f"{ACTIVITY[-1]}+"]
    lengths = [len(request.history) for request in requests]
    labels = {"activity": [names[at - 1] for at in np.searchsorted(ACTIVITY, lengths, side="right")]}
    if new is not None and new.any():
        labels["items"] = np.where(new, "new", "known").tolist()
    return ({"users": user_groups[users].tolist()} if (user_groups != WARM).any() else {}) | labels
