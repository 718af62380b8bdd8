"""A whole run, stage after stage; each stage does nothing when nothing that it reads has changed."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from llm.align.align import align
from llm.methods.personalize import personalize
from llm.stage1.adapt import adapt
from recsys import terminal
from recsys.artifacts.manifest import told_stale
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.splits import TEST
from recsys.embeddings.embed import embed
from recsys.engagement.config import EngagementConfig
from recsys.engagement.label_lists import make_lists
from recsys.run import Run
from recsys.terminal import shown
from recsys.training import distributed
from semantic_ids.tokenize_items import tokenize_items
from serving.answering.recommender import Recommendations, Recommender
from serving.config.run import RunConfig, load_config
from serving.config.truth import SECTIONS, UPSTREAM, out_of_date, refuse_other_settings, settings_changed
from serving.engines.base import Engine
from serving.report.publish import publish, publish_music
from serving.stages.combine import combine
from serving.stages.evaluate import evaluate
from serving.stages.music import music
from serving.stages.names import COMBINED_STAGES, PLAYLIST_STAGES, STAGES

SHARED = ("adapt", "personalize", "align")  # stages that several processes share


def run_stage(name: str, config: RunConfig, run: Run, engine: Engine | None = None) -> None:
    """Run one stage of `STAGES` or `PLAYLIST_STAGES` (its inputs must be there);
    `evaluate` may be measured by an engine.

    Of several processes (`recsys.training.distributed`) all train the language model, and the main one does
    the rest. Raises `RunError` where the configuration says of an earlier stage what that was not made from.
    """
    refuse_other_settings(run, config, UPSTREAM[name])
    stages: dict[str, Callable[[], None]] = {
        "prepare": lambda: prepare(config.prepare, run),
        "embed": lambda: embed(config.embed, run),
        "tokenize": lambda: tokenize_items(config.tokenize, run),
        "adapt": lambda: adapt(config.adapt, run),
        "personalize": lambda: personalize(config.personalize, config.adapt, run),
        "combine": lambda: combine(config, run),
        "evaluate": lambda: publish(run, evaluate(config, run, engine=engine)),
        "engagement": lambda: make_lists(config.engagement or EngagementConfig(seed=config.seed), run),
        "align": lambda: align(config.align, config.adapt, run),
        "music": lambda: publish_music(run, music(config, run)),
    }
    if name in SHARED:
        stages[name]()
    else:
        distributed.by_main(stages[name])


def stages_of(config: RunConfig) -> tuple[str, ...]:
    """The stages that a run of this configuration has, in order."""
    stages = STAGES if config.combine is None else COMBINED_STAGES
    return stages if config.engagement is None else stages + PLAYLIST_STAGES


def run_all(config: RunConfig, run: Run, until: str | None = None, console: Console | None = None) -> None:
    """Every stage up to `until` (None: the last), the time each took,
    and five recommendations with and without a query.
    """
    console = console or Console(quiet=not distributed.is_main())
    stages = stages_of(config)
    stages = stages[: stages.index(until) + 1] if until else stages
    with run.lock():
        run.write_config(config.model_dump(mode="json"))
        started = time.monotonic()
        for number, name in enumerate(stages, 1):
            console.rule(f"[bold]{number}/{len(stages)} {name}")
            begun = time.monotonic()
            before = run.record(name)
            run_stage(name, config, run)
            record = run.record(name)
            fresh = before is None or record is None or before["finished_unix_s"] != record["finished_unix_s"]
            state = "done" if fresh else "unchanged since the last run, not run again"
            console.print(f"{name}: {state} ({time.monotonic() - begun:.1f} s)", highlight=False)
        print_timings(run, console)
        console.print(f"This call took {time.monotonic() - started:.0f} s.", highlight=False)
    if "evaluate" in stages:
        distributed.by_main(lambda: show_examples(config, run, console))
        console.print(
            shown(f"Report: {run.path / 'report.html'}    Figures: {run.path / 'results.json'}"),
            highlight=False,
        )


def print_timings(run: Run, console: Console) -> None:
    """Seconds of each stage; where there are any, those of calls that were killed or failed stand beside them."""
    rows, lost = [], 0.0
    for name in COMBINED_STAGES + PLAYLIST_STAGES:
        record, unfinished = run.record(name), run.unfinished_seconds(name)
        lost += unfinished
        if record or unfinished:
            rows.append((name, record["seconds"] if record else None, unfinished))
    table = Table(title="Time of each stage", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    if lost:
        table.add_column("killed calls", justify="right")
    rows.append(("all", sum(seconds or 0.0 for _, seconds, _ in rows), lost))
    for name, seconds, unfinished in rows:
        cells = [name, "unfinished" if seconds is None else f"{seconds:.1f}"]
        if lost:
            cells.append(f"{unfinished:.1f}" if unfinished else "")
        table.add_row(*cells, style="bold" if name == "all" else None)
    console.print(table)


def print_differences(run: Run, console: Console) -> None:
    """A line for each setting that its finished stage was not made from, and each stage that was made from other artifacts than there are;
    `recommend` and `evaluate` refuse such a run.
    """
    try:
        config = load_config(None, base=run.read_config())
        told = [f"config.yaml: {one}" for one in settings_changed(run, config)]
        told += told_stale(out_of_date(run))
    except ValueError as error:
        if not any(run.record(name) for name in SECTIONS):
            return  # a run of text tasks
        told = [f"config.yaml: {error}"]
    for line in told:
        console.print(shown(line), highlight=False)


def show_examples(config: RunConfig, run: Run, console: Console) -> None:
    """Recommendations for one user, without and with a query."""
    user = config.example.user
    if user is None:
        data = Dataset.load(run)
        user = str(data.user_ids[data.users[data.events(TEST)[0]]])
    recommender = Recommender.load(run.path)
    for query in (None, config.example.query) if config.example.query else (None,):
        asked = f" who asks for “{query}”" if query else ""
        print_recommendations(
            recommender.recommend(user, query, config.example.n), f"For user {user}{asked}", console
        )


def print_recommendations(found: Recommendations, title: str, console: Console) -> None:
    table = Table(title=terminal.title(f"{title} ({found.method}; {found.path})"), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("item")
    table.add_column("title")
    table.add_column("score", justify="right")
    for rank, item in enumerate(found, 1):
        table.add_row(str(rank), shown(item.item_id), shown(item.title), f"{item.score:.3f}")
    console.print(table)
