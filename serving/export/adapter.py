"""A user's adapter as a folder that PEFT loads: what `prelude export-adapter` does."""

from __future__ import annotations

from pathlib import Path

from llm.methods import peft_export
from recsys.artifacts import versions
from recsys.door.times import one_moment
from recsys.recommender import Request
from recsys.run import Run
from serving.answering.known import known_user
from serving.answering.methods import Methods
from serving.config.truth import config_of


def export_adapter(
    run: Path,
    user: str,
    out: Path,
    query: str | None = None,
    method: str = "p2p",
    seed: int | None = None,
    time: int | str | None = None,
) -> str:
    """Write the adapter of one user, query and moment (`time`) to the folder `out`; returns what to print.

    Raises `ValueError` for a method or a user that the run has not, and for a user without events before the
    moment.
    """
    opened = Run.serving(run)
    methods = Methods(opened, config_of(opened))
    if method not in methods.available():
        raise ValueError(f"this run has no method {method!r}; it has {', '.join(methods.available())}")
    data = methods.dataset
    known = known_user(data, user)
    if known is None:
        raise ValueError(f"the run knows no user {user!r}")
    index, moment = known[1], int(data.times.max()) + 1 if time is None else one_moment(time)
    if len(data.before(index, moment)[0]) == 0:
        raise ValueError(f"user {user!r} has no event before {moment}: No Context is what they get")
    request = Request("export", index, moment, *data.before(index, moment), query=query)
    facts = peft_export.export_adapter(methods.reading(method, seed), request, out)
    return (
        f"{out}: {methods.name(method)} for user {user}{_version_of(opened)}: rank {facts['rank']} on {facts['layers']} layers, "
        f"{facts['parameters']:,} parameters; load it onto the merged Stage 1 model "
        f"(PeftModel.from_pretrained(load_adapted(run, config.adapt).inner, folder))"
    )


def _version_of(run: Run) -> str:
    """Which version of a refreshed run an adapter was made of, and its table of semantic IDs."""
    if run.path == run.home:
        return ""
    return f", of version {int(run.path.name)} (semantic IDs {versions.facts(run.path)['table'][:12]})"
