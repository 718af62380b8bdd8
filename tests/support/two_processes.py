"""What each of the processes that tests/whole/test_distributed.py launches does.

    die RUN                          Stage 1 of a run, in which process 1 is killed without warning at step DIES_AT
    finish RUN WHOLE LABELLED OUT    that run's remaining stages by the command line, Stage 1 of WHOLE without a kill, the stage
                                     align of LABELLED, and the small checks

What a process found is written to OUT/<its number>.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from recsys.training import distributed, loop

DIES_AT = 45
SIZES = (5, 1, 4, 3, 7, 2)  # rows of the batches: uneven shares, and one batch with fewer rows than processes
CONSTANT = {
    2: (2, 3)
}  # batch -> rows whose loss depends on nothing that is trained: all of process 1's share


class Rows(torch.nn.Module):
    """Loss of row r: the mean over its 1 + r % 3 targets of (w · x + bias_r − target)²; `sleeping` is part of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.5, -1.0, 0.25]))
        self.of_row = torch.nn.Parameter(torch.zeros(4))  # only rows 0 to 3 have one
        self.sleeping = torch.nn.Parameter(torch.ones(2))

    def errors(self, batch: int, row: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(100 * batch + row)
        x, targets = torch.randn(3, generator=draw), torch.randn(1 + row % 3, generator=draw)
        if row in CONSTANT.get(batch, ()):
            return targets.square()
        own = self.of_row[row] if row < 4 else 0.0
        return (self.w @ x + own - targets).square()


def optimizer_of(module: Rows) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=0.05, weight_decay=0.1)


def fit_rows(checkpoint: Path) -> dict:
    module = Rows()

    def step(index: int) -> tuple[torch.Tensor, int]:
        rows = range(SIZES[index % len(SIZES)])
        errors = torch.cat(
            [module.errors(index % len(SIZES), row) for row in rows[distributed.share(len(rows))]]
        )
        return errors.mean(), len(errors)

    curves = loop.fit(
        "rows", 12, loop.trainable_state(module), optimizer_of(module), step, checkpoint,
        clip_norm=0.5, log_every=1,
    )  # fmt: skip
    return {
        "losses": curves.losses,
        "parameters": {name: tensor.tolist() for name, tensor in module.named_parameters()},
    }


def fit_a_loss_of_all(checkpoint: Path) -> list[float]:
    """A step that knows nothing of shares."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    loop.fit(
        "alike",
        3,
        {"w": weight},
        torch.optim.SGD([weight], lr=0.1),
        lambda i: weight.square().sum(),
        checkpoint,
    )
    return weight.tolist()


def failing() -> str:
    def work() -> None:
        raise ValueError("by the main process")

    try:
        distributed.by_main(work)
    except (ValueError, distributed.MainFailed) as error:
        return type(error).__name__
    return "nothing"


def command_line(*arguments: str, expected: int = 0) -> None:
    from serving.cli import main

    sys.argv = ["prelude", *arguments]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    assert code == expected, (arguments, code)


def die(run: str) -> None:
    import llm.stage1.adapt

    honest, calls = llm.stage1.adapt.window_loss, 0

    def deadly(model, windows, smoothing):
        nonlocal calls
        calls += 1
        if calls == DIES_AT and distributed.number() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(model, windows, smoothing)

    llm.stage1.adapt.window_loss = deadly
    command_line("adapt", run)


def finish(run: str, whole: str, labelled: str, out: str) -> None:
    import llm.methods.p2p.profiles

    llm.methods.p2p.profiles.CHUNK = 50  # so that P2P's profiles are several files, encoded by turns
    command_line("adapt", whole)
    command_line("run", "--run", run, "--until", "personalize")
    command_line("align", labelled)
    number, folder = distributed.number(), Path(out)
    numbers = torch.tensor([number + 1.0, 10.0 * number])
    found = {
        "rows": fit_rows(folder / "rows"),
        "alike": fit_a_loss_of_all(folder / "alike"),
        "failed": failing(),
        "mean": distributed.mean(numbers, number + 1).tolist(),
        "by_main": distributed.by_main(lambda: [distributed.processes(), distributed.share(9).stop, number]),
    }
    (folder / f"{number}.json").write_text(json.dumps(found))
    command_line("prepare", whole, "--set", "prepare.interactions=nowhere.csv", expected=2)
    command_line("status", run)


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert loop.fit.__kwdefaults__ is not None
    loop.fit.__kwdefaults__["checkpoint_every_s"] = 0.0
    {"die": die, "finish": finish}[sys.argv[1]](*sys.argv[2:])
