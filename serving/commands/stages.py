"""The commands of a run's stages: all of them, each of them, and how far they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recsys import terminal
from recsys.terminal import shown
from recsys.training import distributed
from serving.commands.options import Changes, ConfigPath, EngineName, Gpus, RunPath, Workers, chosen_engine
from serving.engines.base import Engine

if TYPE_CHECKING:  # the command line starts without pandas and torch
    from recsys.run import Run
    from serving.config.run import RunConfig


def run(
    config: Annotated[Path | None, typer.Argument(help="YAML configuration. Default: the run's own.")] = None,
    run: Annotated[Path, typer.Option("--run", "-r", help="Run directory.")] = Path("runs/demo"),
    until: Annotated[
        str | None, typer.Option(help="Last stage to run. Default: all that the configuration has.")
    ] = None,
    set_: Changes = None,
) -> None:
    """Run all stages that the configuration has: prepare, embed, tokenize, adapt, personalize, combine, evaluate; engagement, align, \
music. A killed run resumes."""
    resolved, opened = _prepared(run, config, set_ or [])
    from serving.pipeline import run_all, stages_of

    if until is not None and until not in stages_of(resolved):
        raise ValueError(f"--until {until}: expected one of {', '.join(stages_of(resolved))}")
    run_all(resolved, opened, until)


def prepare(
    run: RunPath,
    config: ConfigPath = None,
    source: Annotated[str | None, typer.Option(help="ml-latest-small, amazon, lastfm or files.")] = None,
    path: Annotated[Path | None, typer.Option(help="Folder of a known data set.")] = None,
    interactions: Annotated[
        Path | None, typer.Option(help="CSV, TSV, JSONL or Parquet: user_id,item_id,timestamp.")
    ] = None,
    items: Annotated[Path | None, typer.Option(help="Items: item_id,title and any text columns.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Queries: user_id,query,timestamp,item_id.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Ours=yours, e.g. --column user_id=uid. Repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="last_fraction, leave_last_out or global_time.")] = None,
    engine: EngineName = None,
    workers: Workers = None,
    set_: Changes = None,
) -> None:
    """Read, check, filter and split interactions. Bad input is refused with file, line and remedy.

    With an engine its workers make integers of the ids of interactions in Parquet files, on as many machines as there are; the
    run's artifacts are the same bytes. The files and the run directory must be where all of them see both."""
    changes = []
    if interactions is not None and source is None:
        source = "files"
    for key, value in (("source", source), ("path", path), ("interactions", interactions), ("items", items),
                       ("queries", queries), ("split.kind", split)):  # fmt: skip
        if value is not None:
            changes.append(f"prepare.{key}={str(value)!r}")
    for pair in column or []:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise ValueError(f"--column {pair}: expected ours=yours, for example user_id=uid")
        changes.append(f"prepare.columns.{ours}={theirs!r}")
    run_one("prepare", run, config, [*changes, *(set_ or [])], chosen_engine(engine, workers, 0.0))


def embed(
    run: RunPath,
    config: ConfigPath = None,
    user_embeddings: Annotated[
        Path | None, typer.Option(help="Parquet: user_id, timestamp, vector. Replaces the GNN's.")
    ] = None,
    item_embeddings: Annotated[
        Path | None, typer.Option(help="Parquet: item_id, vector. With both the GNN is skipped.")
    ] = None,
    engine: EngineName = None,
    workers: Workers = None,
    gpus: Gpus = 0.0,
    set_: Changes = None,
) -> None:
    """Learn item vectors (LightGCN) and user vectors as of a moment, or take the embeddings \
that you bring. With an engine its workers read the items' texts."""
    given = (("user_embeddings", user_embeddings), ("item_embeddings", item_embeddings))
    changes = [f"embed.{key}={str(value)!r}" for key, value in given if value is not None]
    run_one("embed", run, config, [*changes, *(set_ or [])], chosen_engine(engine, workers, gpus))


def tokenize(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Turn items into semantic IDs (RQ-VAE or residual k-means). Look at them with `prelude inspect`."""
    run_one("tokenize", run, config, set_ or [])


def inspect(
    run: RunPath,
    data: Annotated[
        bool,
        typer.Option(
            "--data", help="The data card: what was read, left out and matched; needs prepare alone."
        ),
    ] = False,
) -> None:
    """Judge the semantic IDs before any generator is trained: use, perplexity, collisions, \
neighbours, scores. With --data, the data instead."""
    from recsys.run import Run

    opened = Run.open(run)
    if data:
        from evaluation.report.data_card import print_card

        embedded = opened.read_json("embed", "embed.json") if opened.record("embed") is not None else None
        print_card(opened.read_json("prepare", "prepare.json"), embedded)
        return
    from semantic_ids.quality import print_quality
    from semantic_ids.scores import print_scores, scores_of

    print_quality(opened.read_json("tokenize", "quality.json"))
    print_scores(scores_of(opened))
    from serving.refresh.health import ids_told

    for sentence in ids_told(opened):
        typer.echo(terminal.escaped(sentence))


def adapt(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Stage 1: teach the backbone to write semantic IDs (LoRA and token rows), then freeze it."""
    run_one("adapt", run, config, set_ or [])


def personalize(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Stage 2: train E2P and its controls on the frozen model."""
    run_one("personalize", run, config, set_ or [])


def combine(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Multiply generators with retrievers over the whole catalogue; weights are learned \
on validation (section `combine`)."""
    run_one("combine", run, config, set_ or [])


def evaluate(
    run: RunPath,
    config: ConfigPath = None,
    engine: EngineName = None,
    workers: Workers = None,
    gpus: Gpus = 0.0,
    set_: Changes = None,
) -> None:
    """Measure every method on the test instances; writes results.json and report.html."""
    run_one("evaluate", run, config, set_ or [], chosen_engine(engine, workers, gpus))


def status(run: RunPath) -> None:
    """Show which stages of a run are finished, how long they took, where its configuration says something \
else of them, and what answers by default."""
    from recsys.run import Run
    from serving.answering.defaults import default_sentences
    from serving.refresh.health import versions_told
    from serving.stages.state import print_differences, print_timings

    opened = Run.open(run)
    print_timings(opened, Console())
    print_differences(opened, Console())
    for sentence in (*default_sentences(opened), *versions_told(opened)):
        typer.echo(terminal.escaped(sentence))


def run_one(
    name: str, path: Path, config: Path | None, changes: list[str], engine: Engine | None = None
) -> None:
    """Run one stage of the run at `path`, with `config` (or its own) and `changes`; say where it is."""
    resolved, run = _prepared(path, config, changes)
    from serving.config.sections import UPSTREAM
    from serving.config.truth import refuse_other_settings
    from serving.pipeline import run_stage, sized
    from serving.stages.state import print_differences

    with run.lock():
        run.refuse_if_exported()
        refuse_other_settings(run, resolved, UPSTREAM[name])
        run.write_config(resolved.model_dump(mode="json"))
        run_stage(name, resolved, run, engine)
        if name == "prepare":
            sized(resolved, run, Console(quiet=not distributed.is_main()))
    record = run.record(name)
    assert record is not None
    Console(quiet=not distributed.is_main()).print(
        shown(f"{name}: {run.path / name} ({record['seconds']:.1f} s when it ran)"), highlight=False
    )
    print_differences(run, Console(quiet=not distributed.is_main()))


def _prepared(path: Path, config: Path | None, changes: list[str]) -> tuple[RunConfig, Run]:
    """The resolved configuration and the opened run."""
    from recsys.run import Run
    from serving.config.values import read_values, validated

    base = None
    if config is None and (path / "config.yaml").exists():
        base = Run(path).read_config()
        if any(change.startswith(("prepare.source=", "prepare.path=")) for change in changes):
            # other data: the old data's settings do not apply
            base["prepare"] = {"split": base["prepare"]["split"]}
    elif config is None:
        base = {"first_look": True}
    values, source = read_values(config, changes, base)
    from serving.config.light import LightConfig

    validated(LightConfig, values, source)  # at once, before what takes seconds is imported
    from serving.config.run import load_config

    resolved = load_config(config, changes, base)
    return resolved, Run.create(path)
