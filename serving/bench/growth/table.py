"""The growth table: seconds and memory by size, the exponent between the two largest, and two decades beyond; and its picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from serving.bench.growth.measure import Measured
from serving.bench.growth.stages import STAGES

BEYOND = (10, 100)  # times the largest size
Figure = Literal["seconds", "cpu_s", "peak_bytes"]
UNIT = {"seconds": 1.0, "cpu_s": 1.0, "peak_bytes": 2.0**30}
SUPERLINEAR = 1.15  # an exponent above this is said


def of_stage(measured: Sequence[Measured], stage: str) -> list[Measured]:
    """What succeeded of one stage, by size."""
    return sorted(
        (one for one in measured if one.stage == stage and one.failed is None),
        key=lambda one: one.size.events,
    )


def exponent(rows: Sequence[Measured], figure: Figure) -> float | None:
    """k of figure ∝ events^k between the two largest sizes; None of fewer.

    What a stage costs whatever the size (imports, a fixed number of steps) is in both, so that k is too small rather than too large
    where it is much of the whole.
    """
    if len(rows) < 2:
        return None
    (small, large) = rows[-2:]
    ratio = getattr(large, figure) / max(getattr(small, figure), 1e-9)
    return math.log(max(ratio, 1e-9)) / math.log(large.size.events / small.size.events)


def beyond(rows: Sequence[Measured], figure: Figure, times: int) -> float | None:
    """The figure at so many times the largest size, by the exponent."""
    power = exponent(rows, figure)
    return None if power is None else getattr(rows[-1], figure) * times**power


def events_of(measured: Sequence[Measured]) -> list[int]:
    return sorted({one.size.events for one in measured})


def markdown(measured: Sequence[Measured]) -> str:
    """The table, and a line for each failure and each exponent above `SUPERLINEAR`."""
    sizes = events_of(measured)
    ahead = [sizes[-1] * times for times in BEYOND]
    head = ["stage"]
    for what in ("CPU s", "peak GiB"):
        head += [f"{what}, {n:.0e}".replace("e+0", "e") for n in sizes]
        head += ["exponent", *(f"→ {n:.0e}".replace("e+0", "e") for n in ahead)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for stage in STAGES:
        rows = of_stage(measured, stage)
        if any(one.stage == stage for one in measured):
            cells = [*_cells(rows, sizes, "cpu_s"), *_cells(rows, sizes, "peak_bytes")]
            lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_remarks(measured), ""])


def _cells(rows: Sequence[Measured], sizes: Sequence[int], figure: Figure) -> Iterator[str]:
    by_size = {one.size.events: one for one in rows}
    for size in sizes:
        yield _number(getattr(by_size[size], figure) / UNIT[figure]) if size in by_size else "–"
    power = exponent(rows, figure)
    yield "–" if power is None else f"{power:.2f}"
    for times in BEYOND:
        found = beyond(rows, figure, times)
        whole = found is not None and rows[-1].size.events == sizes[-1]
        yield _number(found / UNIT[figure]) if whole and found is not None else "–"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _remarks(measured: Sequence[Measured]) -> Iterator[str]:
    for one in measured:
        if one.failed:
            yield f"- {one.stage} at {one.size.events:g} events: {one.failed}"
    for stage in STAGES:
        rows = of_stage(measured, stage)
        for figure, name in (("cpu_s", "CPU seconds"), ("peak_bytes", "memory")):
            power = exponent(rows, figure)  # type: ignore[arg-type]
            if power is not None and power > SUPERLINEAR:
                yield f"- {stage}: {name} grow faster than the events, by their power {power:.2f}"


def picture(measured: Sequence[Measured]) -> bytes:
    """Seconds and memory over events, both axes logarithmic, a line a stage, dashed beyond what was measured."""
    import matplotlib.pyplot as plt

    from evaluation.report.style import COLOURS, png, style

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axis, (what, title) in zip(
        axes,
        (("cpu_s", "CPU seconds of a stage"), ("peak_bytes", "peak memory of a stage, GiB")),
        strict=True,
    ):
        style(axis, title)
        for place, stage in enumerate(STAGES):
            rows = of_stage(measured, stage)
            if not rows:
                continue
            colour = COLOURS[place % len(COLOURS)]
            marker = "o" if place < len(COLOURS) else "s"
            points = [(one.size.events, getattr(one, what) / UNIT[what]) for one in rows]
            axis.plot(*zip(*points, strict=True), f"{marker}-", color=colour, label=stage, markersize=4)
            ahead = [points[-1]]
            for times in BEYOND:
                found = beyond(rows, what, times)  # type: ignore[arg-type]
                if found is not None:
                    ahead.append((rows[-1].size.events * times, found / UNIT[what]))
            axis.plot(*zip(*ahead, strict=True), "--", color=colour, linewidth=1)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("events (a tenth as many users, a tenth as many items)")
    axes[0].legend(frameon=False, fontsize=8, ncols=2)
    return png(figure)
