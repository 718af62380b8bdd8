"""The setting `track`: where a run's curves and figures go besides the run itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from recsys.config import StageConfig

TRACKERS = ("tensorboard", "mlflow", "wandb")


class TrackConfig(StageConfig):
    """`track: tensorboard` is short for `track: {to: tensorboard}`."""

    # tensorboard: event files; mlflow: an SQLite store, or the server of MLFLOW_TRACKING_URI; wandb: files for `wandb sync`,
    # or online where WANDB_MODE says so. Nothing leaves the machine unless the environment asks for it
    to: Literal["tensorboard", "mlflow", "wandb"]
    folder: str | None = None  # where the tracker's files go; null: RUN/tracking/NAME
    project: str = "prelude"  # MLflow's experiment, or W&B's project

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value
