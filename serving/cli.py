"""The command line: it parses, calls the stages, and turns callers' mistakes into one clear message (exit code 2)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recsys.training import distributed
from serving.commands import compare_ids, export, music, online, playlists, user
from serving.commands.analyse import analyses
from serving.commands.options import Changes, ConfigPath, RunPath
from serving.commands.recommend import recommend
from serving.commands.task import task
from serving.export.adapter import export_adapter

if TYPE_CHECKING:
    from serving.engines.base import Engine

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Prelude: a frozen LLM writes the semantic ID of what a user wants next.

    A whole run:     prelude run configs/demo.yaml --run runs/demo
    Your own data:   prelude prepare runs/mine --interactions events.csv --items items.csv --column user_id=uid
                     prelude run --run runs/mine
    Ask it:          prelude recommend runs/mine --user 42 --query "dark comedy"
    Overnight:       prelude playlists runs/mine --requests requests.parquet --out tonight

    Every stage (prepare, embed, tokenize, adapt, personalize, combine, evaluate; engagement, align, music) is a command of its own, resumes when it was
    killed, and does nothing when its inputs have not changed.""",
)

app.command()(task)

# commands that several processes may share (accelerate launch -m serving.cli …); any other is the main one's alone
SHARED = ("run", "prepare", "embed", "tokenize", "adapt", "personalize", "align", "evaluate")


@app.callback()
def _who(context: typer.Context) -> None:
    if context.invoked_subcommand not in SHARED and not distributed.leave_to_main():
        raise typer.Exit()


def _prepared(path: Path, config: Path | None, changes: list[str]) -> tuple[Any, Any]:
    """The resolved configuration and the opened run."""
    from recsys.run import Run
    from serving.config.run import load_config

    base = None
    if config is None and (path / "config.yaml").exists():
        base = Run(path).read_config()
        if any(change.startswith(("prepare.source=", "prepare.path=")) for change in changes):
            base["prepare"] = {
                "split": base["prepare"]["split"]
            }  # other data: the old data's settings do not apply
    resolved = load_config(config, changes, base)
    return resolved, Run.create(path)


def _stage(
    name: str, path: Path, config: Path | None, changes: list[str], engine: Engine | None = None
) -> None:
    from serving.pipeline import run_stage

    resolved, run = _prepared(path, config, changes)
    with run.lock():
        run.write_config(resolved.model_dump(mode="json"))
        run_stage(name, resolved, run, engine)
    record = run.record(name)
    assert record is not None
    Console(quiet=not distributed.is_main()).print(
        f"{name}: {run.path / name} ({record['seconds']:.1f} s when it ran)", highlight=False
    )


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="YAML configuration. Default: the run's own.")] = None,
    run: Annotated[Path, typer.Option("--run", "-r", help="Run directory.")] = Path("runs/demo"),
    until: Annotated[
        str | None, typer.Option(help="Last stage to run. Default: all that the configuration has.")
    ] = None,
    set_: Changes = None,
) -> None:
    """Run all stages: prepare, embed, tokenize, adapt, personalize, evaluate; and, where the configuration has a section
    `engagement`, engagement, align, music. A killed run resumes."""
    from serving.pipeline import run_all, stages_of

    resolved, opened = _prepared(run, config, set_ or [])
    if until is not None and until not in stages_of(resolved):
        raise ValueError(f"--until {until}: expected one of {', '.join(stages_of(resolved))}")
    run_all(resolved, opened, until)


@app.command()
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
    set_: Changes = None,
) -> None:
    """Read, check, filter and split interactions. Bad input is refused with file, line and remedy."""
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
    _stage("prepare", run, config, [*changes, *(set_ or [])])


@app.command()
def embed(
    run: RunPath,
    config: ConfigPath = None,
    user_embeddings: Annotated[
        Path | None, typer.Option(help="Parquet: user_id, timestamp, vector. Replaces the GNN's.")
    ] = None,
    item_embeddings: Annotated[
        Path | None, typer.Option(help="Parquet: item_id, vector. With both the GNN is skipped.")
    ] = None,
    set_: Changes = None,
) -> None:
    """Learn item vectors (LightGCN) and user vectors as of a moment, or take the embeddings that you bring."""
    given = (("user_embeddings", user_embeddings), ("item_embeddings", item_embeddings))
    changes = [f"embed.{key}={str(value)!r}" for key, value in given if value is not None]
    _stage("embed", run, config, [*changes, *(set_ or [])])


@app.command()
def tokenize(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Turn items into semantic IDs (RQ-VAE or residual k-means). Look at them with `prelude inspect`."""
    _stage("tokenize", run, config, set_ or [])


@app.command()
def inspect(run: RunPath) -> None:
    """Judge the semantic IDs before any generator is trained: use, perplexity, collisions, neighbours, scores."""
    from recsys.run import Run
    from semantic_ids.quality import print_quality
    from semantic_ids.scores import print_scores, scores_of

    opened = Run.open(run)
    print_quality(opened.read_json("tokenize", "quality.json"))
    print_scores(scores_of(opened))


@app.command()
def adapt(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Stage 1: teach the backbone to write semantic IDs (LoRA and token rows), then freeze it."""
    _stage("adapt", run, config, set_ or [])


@app.command()
def personalize(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Stage 2: train E2P and its controls on the frozen model."""
    _stage("personalize", run, config, set_ or [])


@app.command()
def combine(run: RunPath, config: ConfigPath = None, set_: Changes = None) -> None:
    """Multiply generators with retrievers over the whole catalogue; weights are learned on validation (section `combine`)."""
    _stage("combine", run, config, set_ or [])


@app.command()
def evaluate(
    run: RunPath,
    config: ConfigPath = None,
    engine: Annotated[
        str | None, typer.Option(help="local or ray: workers measure. Default: this process does.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Each loads all methods and has one thread. Default: one a core.")
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs of each worker (ray).")] = 0.0,
    set_: Changes = None,
) -> None:
    """Measure every method on the test instances; writes results.json and report.html."""
    from serving.engines.choose import engine as chosen

    if engine is None and (workers is not None or gpus):
        raise ValueError("--workers and --gpus are of an engine: add --engine local or --engine ray")
    _stage("evaluate", run, config, set_ or [], chosen(engine, workers, gpus) if engine else None)


app.command()(recommend)


@app.command()
def summarize(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Parquet file to write: user_id, timestamp, summary.")],
    model: Annotated[
        str, typer.Option(help="smollm2, a folder or a hub name: a model that follows instructions.")
    ] = "smollm2",
    titles: Annotated[int, typer.Option(help="Titles that the model is told, the latest ones.")] = 12,
    tokens: Annotated[int, typer.Option(help="Longest summary, in tokens.")] = 40,
) -> None:
    """Have a language model describe every user in a sentence, for PAG and P2P. A killed call goes on."""
    from serving.studies.summaries import summarize as write

    typer.echo(write(run, out, model, titles, tokens))


app.command("export-adapter")(export_adapter)
app.add_typer(analyses, name="analyse")


@app.command()
def bench(
    quick: Annotated[bool, typer.Option(help="Smaller cases: five to ten minutes on two cores.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="One case: draw, distinct, mask, score, prefix, int8, lightgcn, rqvae, vectors, stage1 or stage2. Repeatable."
        ),
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
) -> None:
    r"""Measure every hot path against what you would otherwise pick, on your own machine.

    Each case runs ours and its peer in turn and prints the ratio of their times, with its range over the runs. Peers
    are an extra: pip install '.\[bench]'. PRELUDE_DATA names a folder with amazon2014/Beauty for the
    LightGCN case; without it a graph of that size is made up.
    """
    from serving.bench import suite

    for path in (json_, markdown):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    results = list(suite.run_cases(only or suite.CASES, quick))
    suite.print_results(results, Console())
    if json_ is not None:
        suite.write_json(results, json_, quick)
    if markdown is not None:
        suite.write_markdown(results, markdown)


@app.command()
def status(run: RunPath) -> None:
    """Show which stages of a run are finished, and how long they took."""
    from recsys.run import Run
    from serving.pipeline import print_timings

    print_timings(Run.open(run), Console())


app.command()(user.user)
online.register(app)
music.register(app, _stage)
playlists.register(app)
app.command("compare-ids")(compare_ids.compare_ids)
export.register(app)


def main() -> None:
    """Entry point: one-line errors for callers' mistakes, tracebacks for ours (or with PRELUDE_TRACEBACK=1)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except distributed.MainFailed:
        sys.exit(2)
    except (ValueError, KeyError, OSError, FloatingPointError) as error:
        if os.environ.get("PRELUDE_TRACEBACK"):
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        who = "prelude" if distributed.is_main() else f"prelude, process {distributed.number()}"
        print(f"{who}: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("prelude: interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
