"""The suite: which cases there are, one process each, the table, and the JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from recsys.progress import Progress
from recsys.terminal import shown
from serving.bench.case import Result

CASES = {  # name: module and function; imported in the case's own process
    "draw": ("drawing", "many_users"),
    "distinct": ("drawing", "one_user"),
    "mask": ("masking", "mask_and_draw"),
    "score": ("scoring", "expected_hit_rate"),
    "prefix": ("drawing", "soft_prefix"),
    "int8": ("drawing", "int8_weights"),
    "lightgcn": ("graph", "lightgcn_epoch"),
    "sasrec": ("embed", "sasrec_step"),
    "propagations": ("embed", "lightgcn_epoch_of_many"),
    "item_knn": ("embed", "item_knn_choice"),
    "rqvae": ("codes", "rqvae_epoch"),
    "vectors": ("vectors", "user_vectors"),
    "stage1": ("steps", "stage1_step"),
    "stage2": ("steps", "stage2_step"),
    "forms": ("forms", "forms"),
    "service": ("service.case", "under_load"),
    "updates": ("growth.updates", "updates"),
}
LIBRARIES = ("torch", "transformers", "torch-geometric", "vector-quantize-pytorch", "numpy")


def run_cases(names: Iterable[str], quick: bool) -> Iterator[Result]:
    """Results, case after case. Raises `ValueError` naming the cases that there are."""
    names = list(names)
    for name in names:
        if name not in CASES:
            raise ValueError(f"there is no case {name!r}; expected some of {', '.join(CASES)}")
    context = multiprocessing.get_context("spawn")
    for name in Progress(names, unit="case", desc="bench"):
        # a process of its own: neither memory nor threads of one case reach into the next
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            yield from pool.submit(_run, name, quick).result()


def _run(name: str, quick: bool) -> list[Result]:
    module, function = CASES[name]
    return getattr(import_module(f"serving.bench.{module}"), function)(quick)


def machine() -> dict[str, Any]:
    """What the figures were made on."""
    import torch

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "python": platform.python_version(),
        # torch says itself which build it is: its package for CUDA does not
        "libraries": {name: _version(name) for name in LIBRARIES} | {"torch": torch.__version__},
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except ImportError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def print_results(results: list[Result], console: Console) -> None:
    """Five columns that fit 80, and below them what each case was held against, what limits it, and what else was measured."""
    table = Table(title="Ratios, measured in one run", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("case", overflow="fold")
    for column in ("ours", "peer", "ratio (range)", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        name, _, ours, peer, _, target, _ = cells(result)
        low, high = result.spread
        ratio = f"{result.ratio:.3g} ({low:.3g}–{high:.3g})"
        table.add_row(shown(name), ours, peer, ratio, target, style=None if result.met else "red")
    console.print(table)
    for result in results:
        said = f"{result.name}: against {result.peer}, {result.repeats} runs; limited by {result.limit}"
        console.print(shown(said + (f"; {_notes(result)}" if result.notes else "")), highlight=False)


def cells(result: Result) -> tuple[str, ...]:
    """A row of the table, as text."""
    low, high = result.spread
    sign = "≤" if result.lower_is_better else "≥"
    target = "–" if result.target is None else f"{sign} {result.target:g} {'met' if result.met else 'missed'}"
    return (
        result.name,
        result.peer,
        f"{result.ours:.3g} {result.unit}",
        f"{result.peers:.3g} {result.unit}",
        f"{result.ratio:.3g} ({low:.3g}–{high:.3g}, {result.repeats} runs)",
        target,
        result.limit,
    )


def _notes(result: Result) -> str:
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key.replace('_', ' ')} {text(value)}" for key, value in result.notes.items())


def write_json(results: list[Result], path: Path, quick: bool) -> None:
    """`{"machine", "quick", "cases": [{"name", "ratio", "spread", "target", "lower_is_better", …}]}`,
    whole or not at all.
    """
    cases = [asdict(result) | {"met": result.met} for result in results]
    text = json.dumps(
        {"machine": machine(), "quick": quick, "cases": cases}, indent=1, default=_plain, allow_nan=False
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_markdown(results: list[Result], path: Path) -> None:
    """The same table in Markdown."""
    about = machine()
    libraries = ", ".join(f"{name} {number}" for name, number in about["libraries"].items())
    lines = [
        f"{about['date']}; {about['processor']}, {about['cores']} cores, {about['threads']} threads, "
        f"{about['device']}; Python {about['python']}, {libraries}.",
        "",
        "| case | against | ours | peer | ratio (range, runs) | target | what limits ours |",
        "|---|---|---|---|---|---|---|",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in cells(result)) + " |" for result in results),
        "",
        *(f"- {result.name}: {_notes(result)}" for result in results if result.notes),
        "",
    ]
    path.write_text("\n".join(lines))


def _plain(value: Any) -> Any:
    return value.item()  # a numpy number
