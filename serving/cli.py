"""The command line: every command by its name, and callers' mistakes as one clear message (exit code 2)."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable

import typer

from recsys.terminal import escaped
from recsys.training import distributed
from serving.commands import (
    analyse,
    bench,
    export,
    music,
    online,
    playlists,
    recommend,
    report,
    serve,
    stages,
    task,
    user,
    value,
)
from serving.commands.finished import audit, compare, compare_ids, loop, refresh
from serving.engines.base import COLLECT_AFTER

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

    Every stage (prepare, embed, tokenize, adapt, personalize, combine, evaluate; engagement, align, music) \
is a command of its own, resumes when it was
    killed, and does nothing when its inputs have not changed.""",
)

# commands that several processes may share (accelerate launch -m serving.cli …); others are the main one's
SHARED = ("run", "prepare", "embed", "tokenize", "adapt", "personalize", "align", "evaluate")


@app.callback()
def _who(context: typer.Context) -> None:
    if context.invoked_subcommand not in SHARED and not distributed.leave_to_main():
        raise typer.Exit()


# every command by its name, in the groups and the order in which `prelude --help` shows them
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "A run, from data to table": {
        "run": stages.run,
        "prepare": stages.prepare,
        "embed": stages.embed,
        "tokenize": stages.tokenize,
        "inspect": stages.inspect,
        "adapt": stages.adapt,
        "personalize": stages.personalize,
        "combine": stages.combine,
        "evaluate": stages.evaluate,
        "status": stages.status,
    },
    "Ask it": {
        "recommend": recommend.recommend,
        "playlists": playlists.playlists,
        "serve": serve.serve,
        "keys": serve.keys,
        "export": export.export,
        "import": export.import_,
    },
    "Every day": {
        "update": online.update,
        "refresh": refresh.refresh,
        "user": user.user,
        "online-full": online.update_into_new_run,
    },
    "What it is worth": {
        "report": report.report,
        "explain": report.explain,
        "compare": compare.compare,
        "audit": audit.audit,
        "value": value.value,
        "attention": online.attention,
        "bench": bench.bench,
    },
    "Labelled playlists (music)": {
        "engagement": music.engagement,
        "align": music.align,
        "music": music.music,
    },
    "Studies": {
        "online": online.online,
        "drift": online.drift,
        "compare-ids": compare_ids.compare_ids,
        "task": task.task,
        "summarize": task.summarize,
        "export-adapter": export.export_adapter,
    },
}
for group, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=group)(command)
analyse.analyses.command()(loop.loop)
app.add_typer(analyse.analyses, name="analyse", rich_help_panel="Studies")


def main() -> None:
    """Entry point: one line for callers' mistakes, tracebacks for ours (or with PRELUDE_TRACEBACK=1)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    gc.set_threshold(COLLECT_AFTER)
    try:
        app()
    except distributed.MainFailed:
        sys.exit(2)
    except (ValueError, KeyError, OSError, FloatingPointError) as error:
        if os.environ.get("PRELUDE_TRACEBACK"):
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        who = "prelude" if distributed.is_main() else f"prelude, process {distributed.number()}"
        print(escaped(f"{who}: {message}", lines=True), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("prelude: interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
