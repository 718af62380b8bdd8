"""Stage `evaluate`: the rows of the table, built from a run and handed to the evaluation job."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.report.report import print_table, write_report
from evaluation.softmax import SoftmaxOver, choose_temperature
from evaluation.table.job import Chunk, Elsewhere, EvaluateConfig, Row, chunk_measurer, evaluate_rows
from evaluation.table.results import Results
from llm.decoding.recommender import SidRecommender
from llm.prompts.reading import OfAnother
from llm.stage1.adapt import validation_events
from recsys.data.splits import TEST, WARM
from recsys.embeddings.user_vectors import partners_of_other_users
from recsys.recommender import Recommender, Request
from recsys.run import Run
from recsys.seeds import rng
from serving.answering.methods import Methods
from serving.config.run import RunConfig
from serving.engines.base import Engine, Work
from serving.report.experiments import experiment_pictures
from serving.report.music import music_sections
from serving.stages.costs import cost_pictures, measure_costs
from serving.stages.prefix_picture import prefix_picture

STAGES = ("prepare", "embed", "tokenize", "adapt", "personalize", "evaluate")
COMBINED_STAGES = (*STAGES[:-1], "combine", STAGES[-1])  # of runs with products of experts
PLAYLIST_STAGES = ("engagement", "align", "music")  # of runs with labelled lists
READS = {
    "popularity": "nothing",
    "recency": "nothing",
    "item_knn": "history before t",
    "embedding_retrieval": "history before t (vector)",
    "sasrec": "history before t",
    "no_context": "recent items",
}
ACTIVITY = (0, 1, 5, 20, 50, 200)  # the least number of events before an instance at each level of activity


def evaluate(config: RunConfig, run: Run, quiet: bool = False, engine: Engine | None = None) -> Results:
    """Run the stage: `results.json`, per-instance figures and the data of the pictures. Needs every other stage.

    With an `engine` its workers measure; the results are the same for every engine and number of workers.
    """
    stages = STAGES if config.combine is None else COMBINED_STAGES
    stage = run.stage("evaluate", config.evaluate, needs=stages[:-1])
    if not stage.is_done():
        methods = Methods(run, config, config.evaluate.int8)
        requests, targets, users, facts = _instances(methods)
        with stage.writing() as folder:
            rows = _rows(config.evaluate, methods, requests, users)
            facts |= {"weights": methods.int8_effect or "as trained"}
            elsewhere = None if engine is None else _elsewhere(engine, config, run, rows, stage.checkpoint)
            results = evaluate_rows(
                config.evaluate, rows, requests, targets, users, stage.checkpoint, facts, quiet=quiet,
                groups=_groups(methods.dataset.user_groups, requests, users), elsewhere=elsewhere,
            )  # fmt: skip
            results.write(folder / "results.json")
            (folder / "costs.json").write_text(json.dumps(measure_costs(methods, requests, quiet)))
            (folder / "prefixes.json").write_text(json.dumps(prefix_picture(methods)))
    return Results.read(run.artifact("evaluate", "results.json"))


def _elsewhere(
    engine: Engine, config: RunConfig, run: Run, rows: Sequence[Row], checkpoint: Path
) -> Elsewhere:
    """Chunks measured by an engine's workers, each of which builds the same rows from the run."""
    chosen = {row.name: row.temperature for row in rows}
    chosen |= {one.name: one.t0 for row in rows for one in row.replicas if type(one) is SoftmaxOver}
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


def measurer(
    config: dict, run: str, checkpoint: str, chosen: dict[str, float | None]
) -> Callable[[Chunk], None]:
    """A worker of an evaluation (`chosen`: the temperatures that validation chose): a function of one chunk."""
    resolved = RunConfig.model_validate(config)
    methods = Methods(Run.open(run), resolved, resolved.evaluate.int8)
    requests, targets, users, _ = _instances(methods)
    rows = _rows(resolved.evaluate, methods, requests, users, chosen)
    return chunk_measurer(resolved.evaluate, rows, requests, targets, users, Path(checkpoint))


def publish(run: Run, results: Results) -> None:
    """Write `results.json` with what the methods cost at the top of the run, `report.html` beside it, and print the table.

    Costs are timings, so they are kept apart from the figures until here: those are the same bytes whenever they are made.
    """
    results = with_costs(run, results)
    results.write(run.path / "results.json")
    write_run_report(run, results)
    print_table(results)


def with_costs(run: Run, results: Results) -> Results:
    """The figures, with what each method costs in its row."""
    costs = run.read_json("evaluate", "costs.json")["rows"]
    return replace(results, rows=[row | costs.get(row["name"], {}) for row in results.rows])


def write_run_report(run: Run, results: Results) -> None:
    """Write `report.html` from what the stages left."""
    curves: dict[str, dict] = {}
    for stage in ("embed", "tokenize", "adapt", "personalize"):
        curves |= run.read_json(stage, "curves.json")
    if run.record("align") is not None:
        curves |= run.read_json("align", "curves.json")
    quality = run.read_json("tokenize", "quality.json")
    tsne = run.read_json("evaluate", "prefixes.json")
    if tsne is not None:
        tsne = {key: np.array(value) for key, value in tsne.items() if key != "users"}
    timings = {
        stage: record["seconds"]
        for stage in COMBINED_STAGES + PLAYLIST_STAGES
        if (record := run.record(stage))
    }
    extra = {
        "Data": run.read_json("prepare", "prepare.json")["counts"],
        "Embeddings": run.read_json("embed", "embed.json"),
    }
    write_report(
        run.path / "report.html",
        results,
        curves,
        [np.array(level["counts"]) for level in quality["levels"]],
        tsne,
        quality,
        timings,
        extra,
        [*cost_pictures(run.read_json("evaluate", "costs.json")), *experiment_pictures(run)],
        music_sections(run),
    )


def _instances(methods: Methods) -> tuple[list[Request], np.ndarray, np.ndarray, dict]:
    """All test instances that can be answered, and what the protocol says of them; the job takes its own sample."""
    data = methods.dataset
    events = data.events(TEST)
    seen_before = np.array(
        [
            np.isin(data.items[e], data.items[data.offsets[data.users[e]] : data.history_end[e]])
            for e in events
        ],
        bool,
    )
    dropped = int(seen_before.sum()) if data.exclude_seen else 0
    if data.exclude_seen:
        events = events[~seen_before]
    facts = {
        "split": methods.config.prepare.split.model_dump(mode="json"),
        "user_split": methods.config.prepare.user_split.model_dump(mode="json"),
        "users_in_data": len(data.user_numbers),
        "items": data.n_items,
        "exclude_seen": data.exclude_seen,
        "exclusions": "the distribution as a whole; temperature on items, and exact ranks (serving walks the trie: node by node, by code, "
        "and a beam)"
        if methods.config.evaluate.whole_catalogue
        else "node by node inside the trie (generative rows); the distribution as a whole (softmax rows and products)",
        "repeats_left_out_of_test": dropped,
        "recent_items_in_prompt": methods.config.adapt.prompts.recent_items,
        "backbone": methods.config.adapt.backbone.name,
        "backbone_layers": methods.config.adapt.backbone.layers,
        "training_seeds": list(methods.config.personalize.seeds),
        "departures": (
            "Our semantic IDs may carry collaborative vectors (the E2P paper quantises content), and our No Context is "
            "the model adapted in Stage 1 (the paper's is a vanilla LLM)."
        ),
    }
    return data.requests(events, data.exclude_seen), data.items[events], data.users[events], facts


def _groups(user_groups: np.ndarray, requests: Sequence[Request], users: np.ndarray) -> dict[str, list[str]]:
    """Labels of the instances: what the user split made of their user (where there is one), and how active they were."""
    names = ["0", *(f"{low}-{high - 1}" for low, high in pairwise(ACTIVITY[1:])), f"{ACTIVITY[-1]}+"]
    lengths = [len(request.history) for request in requests]
    labels = {"activity": [names[at - 1] for at in np.searchsorted(ACTIVITY, lengths, side="right")]}
    return ({"users": user_groups[users].tolist()} if (user_groups != WARM).any() else {}) | labels


def _rows(
    config: EvaluateConfig,
    methods: Methods,
    requests: list[Request],
    users: np.ndarray,
    chosen: Mapping[str, float | None] | None = None,
) -> list[Row]:
    """The table's rows. `chosen` are temperatures by name, where validation has chosen them before."""
    data = methods.dataset
    events = validation_events(data, methods.config.personalize.validation_instances, seed=0)
    validation = data.requests(events, data.exclude_seen)
    answers = data.items[events]
    seeds = methods.config.personalize.seeds

    def row(key: str) -> Row:
        method = None if key == "no_context" else methods.config.personalize.method(key)
        some = seeds if method is not None and method.is_trained else seeds[:1]
        replicas = [_measured(config, methods.build(key, seed)) for seed in some]
        name = methods.name(key)
        temperature = chosen[name] if chosen else _temperature(config, replicas[0], validation, answers)
        reads = READS[key] if method is None else method.reads
        return Row(name, list(replicas), temperature, reads, _trained(methods, key))

    rows = []
    if _wanted(config, "Popularity"):
        rows.append(Row("Popularity", [methods.build("popularity")], None, READS["popularity"], "counts"))
    # cosines and shares of votes lie in [−1, 1] or little above; a softmax over them wants it sharper
    sharp = sorted({t / by for t in config.temperature_grid for by in (10, 100)})
    scorers = [("item_knn", "counts", sharp), ("embedding_retrieval", "LightGCN", sharp)]
    if methods.config.embed.sasrec is not None:  # its scores are the logits that it was trained by
        scorers.append(("sasrec", "its own transformer", list(config.temperature_grid)))
    for key, trained, grid in scorers:
        if _wanted(config, methods.name(key)):
            rows.append(Row(methods.name(key), [methods.build(key)], None, READS[key], trained))
        name = f"{methods.name(key)} (softmax)"
        if not _wanted(config, name):
            continue
        scorer: Any = methods.build(key)
        t0 = (chosen or {}).get(name) or choose_temperature(scorer, validation, answers, grid)
        softmax = SoftmaxOver(scorer, t0, name)
        rows.append(Row(name, [softmax], 1.0, READS[key], f"T0 = {t0:g} chosen on validation"))
    rows.append(row("no_context"))
    for method in methods.config.personalize.methods:
        if method.key == "e2p" and _wanted(config, "E2P-Random"):
            rows.append(_random_row(config, methods, requests, users))
        if _wanted(config, method.name):
            rows.append(row(method.key))
    rows += _product_rows(config, methods)
    if missing := sorted(set(config.rows or ()) - {one.name for one in rows}):
        raise ValueError(
            f"evaluate.rows names {missing[0]!r}; this run has {', '.join(one.name for one in rows)}"
        )
    return rows


def _wanted(config: EvaluateConfig, name: str) -> bool:
    return config.rows is None or name in config.rows


class WholeCatalogue(SoftmaxOver):
    """A generator measured on all of its distribution at once (`evaluate.whole_catalogue`)."""

    scorer: SidRecommender

    def context_tokens(self, requests: Sequence[Request]) -> float:
        return self.scorer.context_tokens(requests)


def _measured(config: EvaluateConfig, built: Recommender) -> Recommender:
    """What is measured of a method: itself, or its distribution over the whole catalogue."""
    if not config.whole_catalogue or not isinstance(built, SidRecommender):
        return built
    return WholeCatalogue(built, 1.0, built.name)


def _product_rows(config: EvaluateConfig, methods: Methods) -> list[Row]:
    """Products of generators and retrievers, and the retrievers' without a generator."""
    products, rows = methods.products, list[Row]()
    if products is None:
        return rows
    factors = ", ".join(products.settings.experts)
    for key, name in products.names().items():
        if not _wanted(config, name):
            continue
        replicas: list[Recommender] = [products.build(key, seed) for seed in products.seeds(key)]
        trained = f"weights of {factors}, and sharpness, on validation"
        # as a softmax row's T0, its sharpness was chosen on validation: t = 1 is its chosen temperature
        rows.append(Row(name, replicas, 1.0, "history before t", trained))
    return rows


def _random_row(config: EvaluateConfig, methods: Methods, requests: list[Request], users: np.ndarray) -> Row:
    """E2P-Random: the trained E2P, each request conditioned as one of another user is; several permutations."""
    replicas: list[Recommender] = []
    seeds = methods.config.personalize.seeds
    for number in range(config.random_permutations):
        partner = partners_of_other_users(users, rng(config.seed, "e2p-random", number))
        reading = methods.reading("e2p", seeds[number % len(seeds)])
        assert reading.personalizer is not None
        other = replace(reading, personalizer=OfAnother(reading.personalizer, requests, partner))
        replicas.append(_measured(config, methods.recommender("E2P-Random", other)))
    return Row("E2P-Random", replicas, None, "recent items, another user's vector", "as E2P")


def _temperature(
    config: EvaluateConfig, method, validation: list[Request], targets: np.ndarray
) -> float | None:
    """The sampling temperature with the best expected hit-rate on validation."""
    if not isinstance(method, SidRecommender | WholeCatalogue):
        return None
    return choose_temperature(method, validation, targets, config.temperature_grid, n=config.n_candidates)


def _trained(methods: Methods, key: str) -> str:
    if key == "no_context":
        return "Stage 1: LoRA and rows"
    report = methods.run.read_json("personalize", "personalize.json")["methods"]
    first = report.get(f"{key}-{methods.config.personalize.seeds[0]}")
    if first is None:
        return "nothing in Stage 2"
    return f"{first['trainable_parameters']:,} parameters at lr {first['learning_rate']:g}"
