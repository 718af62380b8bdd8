"""A whole run, stage after stage; each stage does nothing when nothing that it reads has changed."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from recsys.engagement.config import EngagementConfig
from recsys.run import Run
from recsys.terminal import shown
from recsys.training import distributed
from serving.config.first_look import chosen
from serving.config.run import RunConfig
from serving.config.sections import UPSTREAM
from serving.config.truth import refuse_other_settings
from serving.engines.base import Engine, workers_of
from serving.stages.names import COMBINED_STAGES, PLAYLIST_STAGES, STAGES
from serving.stages.state import print_timings
from serving.tracking.track import track_stage
from serving.tracking.trackers import refuse_without_package

SHARED = ("adapt", "personalize", "align")  # stages that several processes share


def run_stage(
    name: str, config: RunConfig, run: Run, engine: Engine | None = None, tells: bool = True
) -> None:
    """Run one stage of `STAGES` or `PLAYLIST_STAGES` (its inputs must be there);
    an engine's workers may make ids integers in `prepare`, read texts in `embed`, and measure in `evaluate`.

    Of several processes (`recsys.training.distributed`) all train the language model, and the main one does
    the rest. `tells`: of `evaluate`, the verdict is printed (a whole run has it at its end). Raises `RunError` where the configuration says of an earlier stage what that was not made from.
    """
    refuse_other_settings(run, config, UPSTREAM[name])
    track = config.track
    if track is not None:
        refuse_without_package(track)
    work, before = _work_of(name, config, run, engine, tells), run.record(name)
    if name in SHARED:
        work()
    else:
        distributed.by_main(work)
    if track is not None and run.record(name) != before:
        distributed.by_main(lambda: track_stage(track, run, name))


def _work_of(
    name: str, config: RunConfig, run: Run, engine: Engine | None, tells: bool
) -> Callable[[], None]:
    """What a stage does; what it needs is imported when it is asked for."""
    match name:
        case "prepare":
            from recsys.data.prepare import prepare

            return lambda: prepare(config.prepare, run, workers_of(engine))
        case "embed":
            from recsys.embeddings.embed import embed

            return lambda: embed(config.embed, run, workers_of(engine))
        case "tokenize":
            from semantic_ids.tokenize_items import tokenize_items

            return lambda: tokenize_items(config.tokenize, run)
        case "adapt":
            from llm.stage1.adapt import adapt

            return lambda: adapt(config.adapt, run)
        case "personalize":
            from llm.methods.personalize import personalize

            return lambda: personalize(config.personalize, config.adapt, run)
        case "combine":
            from serving.stages.combine import combine

            return lambda: combine(config, run)
        case "evaluate":
            from serving.report.publish import publish
            from serving.stages.evaluate import evaluate

            return lambda: publish(run, evaluate(config, run, engine=engine), tells)
        case "engagement":
            from recsys.engagement.label_lists import make_lists

            return lambda: make_lists(config.engagement or EngagementConfig(seed=config.seed), run)
        case "align":
            from llm.align.align import align

            return lambda: align(config.align, config.adapt, run)
        case "music":
            from serving.report.publish import publish_music
            from serving.stages.music import music

            return lambda: publish_music(run, music(config, run))
    raise KeyError(name)


def stages_of(config: RunConfig, until: str | None = None) -> tuple[str, ...]:
    """The stages that a run of this configuration has, in order, up to `until` (None: the last)."""
    stages: tuple[str, ...] = STAGES if config.combine is None and not config.first_look else COMBINED_STAGES
    stages = stages if config.engagement is None else stages + PLAYLIST_STAGES
    return stages[: stages.index(until) + 1] if until else stages


def sized(config: RunConfig, run: Run, console: Console) -> RunConfig:
    """The configuration as the run goes on with it after `prepare`: a first look is sized to what was counted, and written down."""
    if config.first_look:
        config = distributed.by_main(lambda: chosen(config, run, console))
        run.write_config(config.model_dump(mode="json"))
    return config


def run_all(config: RunConfig, run: Run, until: str | None = None, console: Console | None = None) -> None:
    """Every stage up to `until` (None: the last), the time each took, recommendations with and without a query, and the verdict."""
    console = console or Console(quiet=not distributed.is_main())
    stages, number = stages_of(config, until), 0
    with run.lock():
        run.write_config(config.model_dump(mode="json"))
        started = time.monotonic()
        while number < len(stages):
            name, number = stages[number], number + 1
            console.rule(f"[bold]{number}/{len(stages)} {name}")
            begun = time.monotonic()
            before = run.record(name)
            run_stage(name, config, run, tells=False)
            if name == "prepare":
                config = sized(config, run, console)
                stages = stages_of(config, until)
            record = run.record(name)
            fresh = before is None or record is None or before["finished_unix_s"] != record["finished_unix_s"]
            state = "done" if fresh else "unchanged since the last run, not run again"
            console.print(f"{name}: {state} ({time.monotonic() - begun:.1f} s)", highlight=False)
        print_timings(run, console)
        console.print(f"This call took {time.monotonic() - started:.0f} s.", highlight=False)
    if "evaluate" in stages:
        distributed.by_main(lambda: show_examples(config, run, console))
        distributed.by_main(lambda: _tell(run, console))
        console.print(
            shown(f"Report: {run.path / 'report.html'}    Figures: {run.path / 'results.json'}"),
            highlight=False,
        )


def _tell(run: Run, console: Console) -> None:
    """How a run ends: the verdict."""
    from serving.report.publish import tell

    tell(run, console)


def show_examples(config: RunConfig, run: Run, console: Console) -> None:
    """Recommendations for one user, without and with a query."""
    from recsys.data.dataset import Dataset
    from recsys.data.splits import TEST
    from serving.answering.printed import print_recommendations
    from serving.answering.recommender import Recommender

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
