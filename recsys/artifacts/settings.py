"""Settings of a configuration, held against those that a stage was made from: what differs, by name."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.artifacts.paths import RunError

ABSENT = "nothing"  # what a setting is said to be where there is none
# Where something runs, not what it is: the same weights serve on another machine
OF_THE_MACHINE = ("adapt.backbone.device",)
NOT_EXPORTED = "(not exported)"  # instead of the name of a model that answers don't need
LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True)
class Difference:
    """A setting that is not what its stage was made from."""

    stage: str
    setting: str  # dotted; of a list of methods by key: personalize.methods[e2p].bottleneck, or [keys], which came and went
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.setting} was {_shown(self.then)} when stage '{self.stage}' was made, and is {_shown(self.now)}"


_ABSENT: Any = object()


def differences(
    stage: str, then: Mapping[str, Any], now: Mapping[str, Any], narrowed: bool = False, whole: bool = True
) -> list[Difference]:
    """What of a section `now` differs from what the stage was made from, `then` (both as JSON has them).

    `narrowed`: of an exported run, whose section speaks of the exported methods, the first seed and the generators that are
    there alone, and names copies of summaries; only what is left is compared. `whole`: a setting that one of the two lacks is a
    difference too.
    """
    found = _walk(stage, dict(then), dict(now), narrowed)
    return [
        Difference(stage, setting, before, after)
        for setting, before, after in found
        if setting not in OF_THE_MACHINE and (whole or (before is not _ABSENT and after is not _ABSENT))
    ]


def refuse(found: Sequence[Difference], path: Any, exported: bool) -> None:
    """Raises `RunError` that names every difference, and the ways out, where there is one."""
    if not found:
        return
    told = "; ".join(map(str, found))
    if exported:
        raise RunError(
            f"{path}/config.yaml is not what this run was exported with: {told}. Export the run again"
        )
    settable = [one for one in found if "[" not in one.setting and one.then is not _ABSENT]
    back = " ".join(f"--set {shlex.quote(f'{one.setting}={json.dumps(one.then)}')}" for one in settable)
    put_back = (
        f"prelude prepare {shlex.quote(str(path))} {back}"
        if len(settable) == len(found)
        else f"edit {path}/config.yaml"
    )
    again = dict.fromkeys(f"prelude {one.stage} {shlex.quote(str(path))}" for one in found)
    raise RunError(
        f"{path}: its configuration is not what its stages were made from: {told}. Put it back ({put_back}), or make again "
        f"what it is of ({', '.join(again)}) and what follows"
    )


def _walk(name: str, then: Any, now: Any, narrowed: bool) -> Iterator[tuple[str, Any, Any]]:
    if then == now:
        return
    last = name.rpartition(".")[2]
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*then, *now]):
            yield from _walk(f"{name}.{key}", then.get(key, _ABSENT), now.get(key, _ABSENT), narrowed)
    elif _is_keyed(then) and _is_keyed(now):
        before, after = ({one["key"]: one for one in some} for some in (then, now))
        if set(after) - set(before) or (not narrowed and list(before) != list(after)):
            gone, new = ([key for key in a if key not in b] for a, b in ((before, after), (after, before)))
            yield f"{name}[keys]", *((gone, new) if gone or new else (list(before), list(after)))
        for key in after:
            if key in before:
                yield from _walk(f"{name}[{key}]", before[key], after[key], narrowed)
    elif not (narrowed and _is_narrower(last, then, now)):
        yield name, then, now


def _is_keyed(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and "key" in one for one in value)
    )


def _is_narrower(last: str, then: Any, now: Any) -> bool:
    """Is `now` what an export makes of `then`?"""
    if last == "seeds":
        return now == then[:1]
    if last in ("generators", "methods", "rows"):
        return isinstance(now, list) and all(one in then for one in now)
    return last == "summaries" or (last == "text_encoder" and now == NOT_EXPORTED)


def _shown(value: Any) -> str:
    text = ABSENT if value is _ABSENT else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
