"""The three trackers behind one call: scalars by step, settings, links. Each library is imported where it is asked for.

A run of Prelude is one run of the tracker, however many calls its stages take: `tracking/runs.json` keeps the tracker's id.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from recsys.artifacts.rewrite import write_text_atomically
from serving.config.track import TrackConfig

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
LONGEST = 250  # characters of a setting's value that MLflow keeps in every version
IDS = "runs.json"

Points = Sequence[tuple[int, float]]


class Tracker(Protocol):
    """What a tracker takes. Names have `/` between stage, learner and figure."""

    def scalars(self, name: str, points: Points) -> None: ...

    def settings(self, values: Mapping[str, str]) -> None: ...

    def links(self, places: Mapping[str, Path]) -> None: ...

    def close(self) -> None: ...


def refuse_without_package(config: TrackConfig) -> None:
    """Raises `ValueError`, one line that names the extra, where the tracker's package is not installed."""
    if importlib.util.find_spec(PACKAGES[config.to]) is None:
        raise ValueError(
            f"track: {config.to} needs the package {PACKAGES[config.to]}, which is not installed: pip install '.[{config.to}]', or set "
            "track: null"
        )


def tracker(config: TrackConfig, run: Path) -> Tracker:
    """The tracker of a run's folder."""
    refuse_without_package(config)
    folder = Path(config.folder) if config.folder else run / "tracking" / config.to
    folder.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, Callable[[Path, Path, str], Tracker]] = {
        "tensorboard": TensorBoard,
        "mlflow": MlFlow,
        "wandb": WandB,
    }
    return kinds[config.to](folder.absolute(), run.absolute(), config.project)


class TensorBoard:
    """Event files; settings and links are texts."""

    def __init__(self, folder: Path, run: Path, project: str):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def scalars(self, name: str, points: Points) -> None:
        for step, value in points:
            self._writer.add_scalar(_plain(name), value, step)

    def settings(self, values: Mapping[str, str]) -> None:
        lines = [f"    {name}: {value}" for name, value in values.items()]
        self._writer.add_text("settings", "\n".join(lines))

    def links(self, places: Mapping[str, Path]) -> None:
        self._writer.add_text("artifacts", "  \n".join(f"{name}: {path}" for name, path in places.items()))

    def close(self) -> None:
        self._writer.close()


class MlFlow:
    """An experiment in an SQLite file, unless MLFLOW_TRACKING_URI names a server; links are tags."""

    def __init__(self, folder: Path, run: Path, project: str):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        self._kinds = Metric, Param, RunTag
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=place)
        experiment = self._client.get_experiment_by_name(project)
        number = (
            experiment.experiment_id
            if experiment is not None
            else self._client.create_experiment(project, (folder / "artifacts").as_uri())
        )
        known = known_id(run, "mlflow")
        self._id = known or self._client.create_run(number, run_name=run.name).info.run_id
        keep_id(run, "mlflow", self._id)

    def scalars(self, name: str, points: Points) -> None:
        metric = self._kinds[0]
        self._log(metrics=[metric(_plain(name), value, 0, step) for step, value in points])

    def settings(self, values: Mapping[str, str]) -> None:
        there = self._client.get_run(self._id).data.params
        param = self._kinds[1]
        self._log(params=[param(_plain(k), v[:LONGEST]) for k, v in values.items() if _plain(k) not in there])

    def links(self, places: Mapping[str, Path]) -> None:
        tag = self._kinds[2]
        self._log(tags=[tag(f"artifact.{name}", path.as_uri()) for name, path in places.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)

    def _log(self, **what: list[Any]) -> None:
        for name, values in what.items():
            for start in range(0, len(values), 100):  # what one call may hold, of params and tags
                self._client.log_batch(self._id, **{name: values[start : start + 100]})


class WandB:
    """Files of Weights & Biases, sent nowhere unless WANDB_MODE says otherwise; links are references of an artifact."""

    def __init__(self, folder: Path, run: Path, project: str):
        import wandb

        self._wandb = wandb
        known = known_id(run, "wandb")
        self._run = wandb.init(
            project=project, name=run.name, dir=str(folder), id=known, resume="allow" if known else None,
            mode=os.environ.get("WANDB_MODE", "offline"), settings=wandb.Settings(silent=True),
        )  # fmt: skip
        keep_id(run, "wandb", str(self._run.id))

    def scalars(self, name: str, points: Points) -> None:
        step_of = f"{name.rpartition('/')[0]}/step"  # W&B's own step only rises, over all curves together
        self._run.define_metric(name, step_metric=step_of)
        for step, value in points:
            self._run.log({name: value, step_of: step})

    def settings(self, values: Mapping[str, str]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def links(self, places: Mapping[str, Path]) -> None:
        linked = self._wandb.Artifact(f"run-{self._run.id}", type="prelude-run")
        for name, path in places.items():
            linked.add_reference(path.as_uri(), name=name, checksum=False)
        self._run.log_artifact(linked)

    def close(self) -> None:
        self._run.finish()


def _plain(name: str) -> str:
    """Letters that all trackers allow in a name: × and the like become x."""
    return "".join(
        letter
        if letter.isascii() and (letter.isalnum() or letter in "_-./ ")
        else "x"
        if letter == "×"
        else "_"
        for letter in name
    )


def known_id(run: Path, name: str) -> str | None:
    """The tracker's id of a run that it was told of before."""
    path = run / "tracking" / IDS
    return json.loads(path.read_text(encoding="utf-8")).get(name) if path.exists() else None


def keep_id(run: Path, name: str, number: str) -> None:
    path = run / "tracking" / IDS
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text_atomically(path, json.dumps(known | {name: number}, indent=1))
