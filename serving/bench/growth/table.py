"""The growth table: seconds and memory by size, the exponent between the two largest, and two decades beyond; and its picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from serving.bench.growth.measure import Measured
from serving.bench.growth.stages import STAGES, START

BEYOND = (10, 100)  # times the largest size
Figure = Literal["seconds", "cpu_s", "peak_bytes"]
UNIT: dict[Figure, float] = {"seconds": 1.0, "cpu_s": 1.0, "peak_bytes": 2.0**30}
SHOWN: dict[Figure, str] = {"cpu_s": "CPU seconds of a stage", "peak_bytes": "GiB of a stage at its peak"}
SUPERLINEAR = 1.15  # an exponent above this is said
AT_LEAST = 1.0  # of the base: where the work is less than the imports are, its growth is their noise


def of_stage(measured: Sequence[Measured], stage: str) -> list[Measured]:
    """What succeeded of one stage, by size."""
    return sorted(
        (one for one in measured if one.stage == stage and one.failed is None),
        key=lambda one: one.size.events,
    )


def base_of(measured: Sequence[Measured], figure: Figure) -> float:
    """What a command costs before it does anything: the least of the stage `start`; 0 where that was not measured."""
    return min((getattr(one, figure) for one in of_stage(measured, START)), default=0.0)


def exponent(rows: Sequence[Measured], figure: Figure, base: float = 0.0) -> float | None:
    """k of (figure − base) ∝ events^k between the two largest sizes; None of fewer, and where the smaller is less than twice the base.

    What a stage costs whatever the size (a fixed number of steps) is in both, so that k is too small where it is much of the whole.
    """
    if len(rows) < 2 or rows[0].stage == START:
        return None
    small, large = (getattr(one, figure) - base for one in rows[-2:])
    if min(small, large) <= AT_LEAST * base or min(small, large) <= 0:
        return None
    return math.log(large / small) / math.log(rows[-1].size.events / rows[-2].size.events)


def beyond(rows: Sequence[Measured], figure: Figure, times: float, base: float = 0.0) -> float | None:
    """The figure at so many times the stage's largest size; None of fewer than two sizes.

    The larger of two: what the exponent gives, where it can be told, and the straight line through the two largest sizes. The
    line has what a stage costs whatever the size apart, which makes an exponent too small.
    """
    if len(rows) < 2 or rows[0].stage == START:
        return None
    (small, large), (fewer, most) = (
        [getattr(one, figure) for one in rows[-2:]],
        [one.size.events for one in rows[-2:]],
    )
    line = large + max(large - small, 0) / (most - fewer) * (times - 1) * most
    power = exponent(rows, figure, base)
    return line if power is None else max(line, base + (large - base) * times**power)


def events_of(measured: Sequence[Measured]) -> list[int]:
    return sorted({one.size.events for one in measured})


def markdown(measured: Sequence[Measured]) -> str:
    """The table, and a line for each failure and each exponent above `SUPERLINEAR`."""
    sizes = events_of(measured)
    ahead = [sizes[-1] * times for times in BEYOND]
    head = ["stage"]
    for what in ("CPU s", "peak GiB"):  # as in SHOWN
        head += [f"{what}, {n:.0e}".replace("e+0", "e") for n in sizes]
        head += ["exponent", *(f"→ {n:.0e}".replace("e+0", "e") for n in ahead)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for stage in STAGES:
        rows = of_stage(measured, stage)
        if any(one.stage == stage for one in measured):
            bases = {figure: 0.0 if stage == START else base_of(measured, figure) for figure in UNIT}
            cells = [cell for figure in SHOWN for cell in _cells(rows, sizes, figure, bases[figure])]
            lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_remarks(measured), ""])


def _cells(rows: Sequence[Measured], sizes: Sequence[int], figure: Figure, base: float) -> Iterator[str]:
    by_size = {one.size.events: one for one in rows}
    for size in sizes:
        yield _number(getattr(by_size[size], figure) / UNIT[figure]) if size in by_size else "–"
    power = exponent(rows, figure, base)
    yield "–" if power is None else f"{power:.2f}"
    for times in BEYOND:
        found = beyond(rows, figure, times * sizes[-1] / rows[-1].size.events, base) if rows else None
        yield "–" if found is None else _number(found / UNIT[figure])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _remarks(measured: Sequence[Measured]) -> Iterator[str]:
    for one in measured:
        if one.failed:
            yield f"- {one.stage} at {one.size.events:g} events: {one.failed}"
    for stage in STAGES:
        rows = of_stage(measured, stage)
        for figure, name in SHOWN.items():
            power = exponent(rows, figure, base_of(measured, figure))
            if stage != START and power is not None and power > SUPERLINEAR:
                yield f"- {stage}: {name.partition(' of')[0]} grow faster than the events, by their power {power:.2f}"


def picture(measured: Sequence[Measured]) -> bytes:
    """Seconds and memory over events, both axes logarithmic, a line a stage, dashed beyond what was measured."""
    import matplotlib.pyplot as plt

    from evaluation.report.style import COLOURS, png, style

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axis, what in zip(axes, SHOWN, strict=True):
        style(axis, SHOWN[what])
        for place, stage in enumerate(STAGES[1:]):
            rows = of_stage(measured, stage)
            if not rows:
                continue
            colour = COLOURS[place % len(COLOURS)]
            marker = "o" if place < len(COLOURS) else "s"
            points = [(one.size.events, getattr(one, what) / UNIT[what]) for one in rows]
            axis.plot(*zip(*points, strict=True), f"{marker}-", color=colour, label=stage, markersize=4)
            ahead, largest = [points[-1]], events_of(measured)[-1]
            for events in (largest, *(largest * times for times in BEYOND)):
                found = beyond(rows, what, events / rows[-1].size.events, base_of(measured, what))
                if found is not None:
                    ahead.append((events, found / UNIT[what]))
            axis.plot(*zip(*ahead, strict=True), "--", color=colour, linewidth=1)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("events (a tenth as many users, a tenth as many items)")
    axes[0].legend(frameon=False, fontsize=8, ncols=2)
    return png(figure)
