"""A resumable training loop: fixed steps, the best state by validation, and, killed or not, the same bytes.

What a step does may depend only on the tensors in `state`, the optimiser and the step's number; then a killed
and resumed run repeats the very arithmetic of one that was left alone. Nothing here looks at a clock except
to decide when to write a checkpoint, which changes no result. Several processes may share a step's batch
(`recsys.training.distributed`); their checkpoints are the main one's, and may be gone on with by another
number of processes.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from recsys.progress import Progress
from recsys.training import distributed

State = Mapping[str, torch.Tensor]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of malloc.h


@dataclass
class Curves:
    """What a training printed: `losses` (step, mean since the last row) and `validation` (step, value)."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    best_value: float = float("-inf")

    def as_dict(self) -> dict:
        return {
            "losses": self.losses,
            "validation": self.validation,
            "best_step": self.best_step,
            "best_value": None if self.best_value == float("-inf") else self.best_value,
        }

    def how_it_ended(self, last: int, steps: int) -> str | None:
        """What a reader of the figures should know of a training that ended at step `last` of `steps`: that it was stopped early, or
        that it still improved. None: neither, or nothing was validated.
        """
        if last < steps:
            return f"stopped early at step {last:,} of {steps:,}; its best is step {self.best_step:,}"
        if len(self.validation) > 1 and self.best_step == last:
            return f"still improving at its last step, {last:,}: more steps would be better"
        return None


def trainable_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Live tensors that training changes: parameters that require gradients, and persistent buffers."""
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    names |= {name for name, _ in module.named_buffers()}
    return {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if name in names}


def cosine(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up over `warmup` steps,
    then a half cosine down to 0.02 at `steps`.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())


def keep_freed_memory() -> None:
    """Have glibc keep up to 1 GiB of freed memory for the next step; a no-op where the C library is another.

    Each step allocates what the one before it freed. Left alone, glibc returns those pages to the kernel,
    which zeroes them and faults them in again, one by one: half of a LightGCN step on a virtual machine.
    Blocks above 32 MiB, the most that glibc takes, still come and go. It holds for the process from here on;
    see mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def release_freed_memory() -> None:
    """Give back what was freed and kept: between trainings of one process the next would stand on top of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def fit(
    label: str,
    steps: int,
    state: State,
    optimizer: torch.optim.Optimizer,
    step: Callable[[int], torch.Tensor | tuple[torch.Tensor, int]],
    checkpoint: Path,
    *,
    schedule: Callable[[int], float] = lambda step: 1.0,
    validate: Callable[[], float] | None = None,
    validate_every: int = 0,
    patience: int = 0,
    log_every: int = 20,
    clip_norm: float = 0.0,
    checkpoint_every_s: float = 20.0,
    quiet: bool = False,
    start_counts: bool = False,
) -> Curves:
    """Train for `steps` steps and leave the best validated state
    (the last one without `validate`) in `state`.

    `step(i)` returns the loss of step i; this function zeroes gradients, steps back, clips and updates. Where
    processes share the work it returns the mean loss of `distributed.share` and of how many things that is
    the mean; they then all get the step, the logged losses and the validated values of the whole batch. A
    loss alone is taken to be everybody's. `validate()` is better when higher; training stops after `patience`
    validations without a new best (0: never). Where the `start_counts`, the state before the first step is validated too, and may be the best. Resumes from `checkpoint` (a folder that this call owns) if it
    holds one. Raises `FloatingPointError` when a loss is not finite.
    """
    release_freed_memory()  # of what was trained before
    keep_freed_memory()
    training = _Training(label, state, optimizer, step, checkpoint)
    training.load()
    start, saved_at, writes = training.index, time.monotonic(), distributed.is_main()
    bar = Progress(
        total=steps,
        initial=start,
        desc=label,
        unit="step",
        disable=quiet or not writes,
        mininterval=1.0,
        leave=True,
    )
    if start_counts and validate and not training.curves.validation:
        training.validate(validate)
    while training.index < steps and not (patience and training.bad >= patience):
        training.take_step(schedule(training.index), clip_norm)
        bar.update(1)
        at = training.index
        if at % log_every == 0 or at == steps:
            training.log(bar)
        if validate and (at == steps or (validate_every and at % validate_every == 0)):
            training.validate(validate)
        # only at log boundaries, so that the logged means come out the same after a resume
        if writes and not training.pending and time.monotonic() - saved_at > checkpoint_every_s:
            training.save()
            saved_at = time.monotonic()
    bar.close()
    told = training.curves.how_it_ended(training.index, steps)
    if told and writes and not quiet:
        print(f"{label}: {told}")
    # so that a stage of several trainings, killed in a later one, repeats nothing
    if writes and training.index > start:
        training.save()
    if training.best is not None:
        _copy_into(state, training.best)
    return training.curves


@dataclass
class _Training:
    """A training under way: what it moves, and where it stands after `index` steps."""

    label: str
    state: State
    optimizer: torch.optim.Optimizer
    step: Callable[[int], torch.Tensor | tuple[torch.Tensor, int]]
    checkpoint: Path
    curves: Curves = field(default_factory=Curves)
    best: dict[str, torch.Tensor] | None = None  # the best validated state
    bad: int = 0  # validations since the best one
    index: int = 0
    pending: list[float] = field(default_factory=list)  # losses since the last logged row

    def __post_init__(self) -> None:
        groups = self.optimizer.param_groups
        self.rates: list[float] = [group["lr"] for group in groups]
        self.parameters: list[torch.nn.Parameter] = [one for group in groups for one in group["params"]]

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        loaded = _load(self.checkpoint, self.state, self.optimizer)
        if loaded:
            self.curves, self.best, self.bad, self.index = loaded

    def save(self) -> None:
        _save(self.checkpoint, self.state, self.optimizer, self.curves, self.best, self.bad, self.index)

    def take_step(self, factor: float, clip_norm: float) -> None:
        """One update, with the learning rates times `factor`."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        made = self.step(self.index)
        loss, count = made if isinstance(made, tuple) else (made, 1)
        # a share may have nothing that is trained in it
        if loss.requires_grad or distributed.processes() == 1:
            loss.backward()
        value = distributed.average(loss, count, self.parameters)
        if value != value or value in (float("inf"), float("-inf")):
            raise FloatingPointError(
                f"{self.label}: the loss of step {self.index} is {value}; lower the learning rate"
            )
        if clip_norm:
            clip_gradient(self.parameters, clip_norm)
        self.optimizer.step()
        self.pending.append(value)
        self.index += 1

    def log(self, bar: Progress) -> None:
        """A row of the curve: the mean loss since the last one."""
        self.curves.losses.append((self.index, sum(self.pending) / len(self.pending)))
        loss, best = self.curves.losses[-1][1], self.curves.best_value
        bar.set_postfix(loss=f"{loss:.4f}", best=f"{best:.4f}", refresh=False)
        self.pending.clear()

    def validate(self, measure: Callable[[], float]) -> None:
        """Measure the state as it is now, and keep a copy of it if it is the best so far."""
        # the main process's: with a last bit between them, processes would not stop together
        measured = distributed.by_main(partial(float, measure()))
        self.curves.validation.append((self.index, measured))
        if measured > self.curves.best_value:
            self.curves.best_value, self.curves.best_step, self.bad = measured, self.index, 0
            self.best = {name: tensor.detach().clone() for name, tensor in self.state.items()}
        else:
            self.bad += 1


def clip_gradient(parameters: list[torch.nn.Parameter], norm: float) -> None:
    """Scale the whole gradient down to `norm`; rows of sparse gradients count as what they add up to."""
    if not any(one.grad is not None and one.grad.is_sparse for one in parameters):
        torch.nn.utils.clip_grad_norm_(parameters, norm)
        return
    parts = []
    for one in parameters:
        if one.grad is not None and one.grad.is_sparse:
            one.grad = one.grad.coalesce()
        if one.grad is not None:
            parts.append(one.grad.values() if one.grad.is_sparse else one.grad)
    factor = (norm / (torch.nn.utils.get_total_norm(parts) + 1e-6)).clamp(max=1.0)
    for part in parts:
        part.mul_(factor)


def _copy_into(state: State, source: State) -> None:
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(source[name])


def _save(
    folder: Path,
    state: State,
    optimizer: torch.optim.Optimizer,
    curves: Curves,
    best: State | None,
    bad: int,
    index: int,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"state.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    tensors |= {f"best.{name}": tensor.cpu().contiguous() for name, tensor in (best or {}).items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
            for name, value in slots.items()
        }
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    meta = {"index": index, "bad": bad, "curves": curves.__dict__, "has_best": best is not None}
    temporary = folder / ".checkpoint.tmp"
    save_file(tensors, str(temporary), metadata={"loop": json.dumps(meta)})
    os.replace(temporary, folder / "checkpoint.safetensors")


def _load(
    folder: Path, state: State, optimizer: torch.optim.Optimizer
) -> tuple[Curves, dict[str, torch.Tensor] | None, int, int] | None:
    """Put what the checkpoint holds into `state` and `optimizer`:
    curves, best state, `bad` and `index` of then.
    """
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return None
    with safe_open(str(path), framework="pt") as file:
        meta = json.loads(file.metadata()["loop"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    _copy_into(state, {name: tensors[f"state.{name}"] for name in state})
    best = (
        {name: tensors[f"best.{name}"].to(state[name].device) for name in state} if meta["has_best"] else None
    )
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, slot = name.split(".", 2)
            slots.setdefault(int(number), {})[slot] = tensor
    whole = optimizer.state_dict()
    whole["state"] = slots
    optimizer.load_state_dict(whole)
    saved = meta["curves"]
    curves = Curves(
        [(int(at), value) for at, value in saved["losses"]],
        [(int(at), value) for at, value in saved["validation"]],
        saved["best_step"],
        saved["best_value"],
    )
    return curves, best, meta["bad"], meta["index"]
