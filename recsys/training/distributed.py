"""Several processes, one training: who is who, what each computes, and how that becomes one step.

    accelerate launch --num_processes 4 -m serving.cli run CONFIG --run DIR  (or torchrun --nproc-per-node 4)

starts the same command four times, each with its own GPU. All of them know the whole batch of a step, since
it depends only on the seed and the step's number; each computes the loss of its `share`, and gradients are
averaged with the number of things that a share's loss is a mean over as weights: the gradient, and so the
step, is that of the whole batch. What is not trained by gradient through the language model is done
`by_main`, the main process, while the others wait. Artifacts have one writer.

Without a launcher there is one process, and nothing here imports torch, opens a socket or changes a bit. Who
is who comes from `accelerate.PartialState`; waiting and telling go through gloo on the CPUs, so that no GPU
spins, and nothing times out, while the main process works alone. A process that dies ends the others: the
launcher sees to that. (`accelerate launch --cpu` starts one process whatever it is told; on a machine without
GPUs `--multi_gpu --num_processes 2` starts two, and so does torchrun.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
COUNT = "WORLD_SIZE"  # the environment variable, set by every launcher
LONGEST_WAIT = timedelta(days=30)  # while the main process works alone


class MainFailed(RuntimeError):
    """What the main process was doing for all failed; it says itself why."""


def is_launched() -> bool:
    """True if a launcher started this process as one of several; not inside `by_main`."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get(COUNT, 1)) > 1


def processes() -> int:
    """How many processes share the work at hand."""
    return int(os.environ[COUNT]) if is_launched() else 1


def number() -> int:
    """Which of them this one is; 0 is the main one."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def is_main() -> bool:
    """True in the process that writes."""
    return number() == 0


def local_gpu() -> int | None:
    """Which of the machine's GPUs is this process's own; None: there is only one process."""
    return int(os.environ["LOCAL_RANK"]) if is_launched() else None


def leave_to_main() -> bool:
    """For commands that are one process's work: from here on the main process is alone.
    False: this is another one, to end now.
    """
    main = is_main()
    if is_launched():
        os.environ[COUNT] = "1"
    return main


def share(n: int) -> slice:
    """The rows of a batch of `n` that this process computes:
    consecutive, in sizes that differ by one at most.

    A batch with fewer rows than there are processes is computed whole by each, so nobody's share is ever
    empty.
    """
    count = processes()
    if n < count:
        return slice(0, n)
    return slice(n * number() // count, n * (number() + 1) // count)


def average(loss: torch.Tensor, count: int, parameters: Iterable[torch.nn.Parameter]) -> float:
    """Make one step of the processes' shares: returns the mean loss,
    and leaves the mean gradients in `parameters`.

    `loss` is this process's mean over `count` things, and its gradients are in the parameters: means are
    weighted by counts. A parameter that got no gradient anywhere keeps none, so that the optimiser passes it
    by as it would in one process.
    """
    if processes() == 1:
        return float(loss.detach())
    import torch

    some = list(parameters)
    with torch.no_grad():
        flat = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in some]
        parts = [loss.detach().reshape(1), loss.new_ones(1), *flat]
        has = torch.tensor([p.grad is not None for p in some], device=loss.device).float()
        total = _sum(torch.cat([has, *(count * part.to(loss.device).float() for part in parts)]))
        anywhere, (value, weight), gradients = total.tensor_split([len(some), len(some) + 2])
        means = (gradients / weight).split([p.numel() for p in some])
        for p, used, gradient in zip(some, anywhere.tolist(), means, strict=True):
            p.grad = gradient.view_as(p).to(p) if used else None
    return float(value / weight)


def mean(total: torch.Tensor, count: int) -> torch.Tensor:
    """Σ total / Σ count over the processes, without gradient;
    every process must call it, in the same order.
    """
    if processes() == 1:
        return total.detach() / count
    import torch

    flat = total.detach().double().reshape(-1)
    summed = _sum(torch.cat([flat, flat.new_tensor([count])]))
    return (summed[:-1] / summed[-1]).view_as(total).to(total)


def wait() -> None:
    """Go on when every process has come here."""
    if processes() > 1:
        import torch

        torch.distributed.barrier(group=_joined()[1])


def by_main(work: Callable[[], Result]) -> Result:
    """What `work` returns in the main process, told to all;
    it begins when all have come here, and the others wait for it.

    If it raises, so does the main process, and the others raise `MainFailed`. Inside `work` there is one
    process.
    """
    if processes() == 1:
        return work()
    import torch

    wait()
    told: list[Any] = [None, False]  # what it returned, whether it did
    error = None
    if is_main():
        try:
            with _alone():
                told = [work(), True]
        except BaseException as raised:
            error = raised
    torch.distributed.broadcast_object_list(told, src=0, group=_joined()[1])
    if error is not None:
        raise error
    if not told[1]:
        raise MainFailed("the main process failed while the others waited for it; its own message says why")
    return told[0]


@contextmanager
def _alone() -> Iterator[None]:
    """One process; the environment says so, and with it every process that is started from here."""
    before = os.environ[COUNT]
    os.environ[COUNT] = "1"
    try:
        yield
    finally:
        os.environ[COUNT] = before


@cache
def _joined() -> tuple[Any, Any]:
    """accelerate's state, and a gloo group of all processes;
    made the first time that they have something to tell.
    """
    import torch
    from accelerate import PartialState

    cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    state = PartialState(cpu=cpu)
    return state, torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def _sum(flat: torch.Tensor) -> torch.Tensor:
    """The sum over the processes, on the device that they talk through, and back."""
    import torch

    there = flat.to(_joined()[0].device)
    torch.distributed.all_reduce(there)
    return there.to(flat.device)
