"""Which text task to read and how much of it: one config, one function."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field

from recsys.artifacts.manifest import sha256_of
from recsys.config import StageConfig
from recsys.data.config import EMBEDDED
from recsys.door.tables import DataError
from recsys.text_tasks.dialogues import (
    load_empathetic,
    load_persona_chat,
    load_personal_reddit,
    load_synthetic_persona_chat,
)
from recsys.text_tasks.from_interactions import load_lastfm_tagging, load_movielens_rating
from recsys.text_tasks.instances import TextTask
from recsys.text_tasks.lamp import load_lamp, load_longlamp
from recsys.text_tasks.pens import load_pens

TaskName = Literal[
    "lastfm-tagging", "movielens-rating", "synthetic-persona-chat", "persona-chat", "personal-reddit",
    "empathetic-conversation", "pens", "LaMP-1", "LaMP-2M", "LaMP-2N", "LaMP-3", "LaMP-4", "LaMP-5", "LaMP-6",
    "LaMP-7", "LongLaMP-1", "LongLaMP-2", "LongLaMP-3",
]  # fmt: skip


class TaskDataConfig(StageConfig):
    task: TaskName = "movielens-rating"
    path: str | None = None  # file or folder; None: ml-latest-small, which ships here (movielens-rating only)
    history_records: int = Field(50, ge=1)  # the latest records that an instance keeps
    context_turns: int = Field(3, ge=1)  # turns of a dialogue shown before the reply (E2P uses three)
    # at most so many of each role, spread over users; None: all
    train_instances: int | None = Field(None, ge=1)
    validation_instances: int | None = Field(None, ge=1)
    test_instances: int | None = Field(None, ge=1)


def load_task(config: TaskDataConfig, seed: int = 0) -> TextTask:
    """Read, split and sample. Raises `DataError` (a `ValueError`) naming file, record and remedy."""
    path, name, records = data_path(config), config.task, config.history_records
    if name == "movielens-rating":
        task = load_movielens_rating(path, records)
    elif name == "lastfm-tagging":
        task = load_lastfm_tagging(path, records)
    elif name == "synthetic-persona-chat":
        task = load_synthetic_persona_chat(path, seed, config.context_turns)
    elif name == "persona-chat":
        task = load_persona_chat(path, seed, config.context_turns)
    elif name == "personal-reddit":
        task = load_personal_reddit(path, seed)
    elif name == "empathetic-conversation":
        task = load_empathetic(path, seed)
    elif name == "pens":
        task = load_pens(path, records)
    elif name.startswith("LongLaMP"):
        task = load_longlamp(name, path, seed, records)
    else:
        task = load_lamp(name, path, seed, records)
    return task.sample(config.train_instances, config.validation_instances, config.test_instances, seed)


def data_path(config: TaskDataConfig) -> Path:
    """The file or folder that the task reads; raises `DataError` where it is not given or not there."""
    if config.path is None:
        if config.task != "movielens-rating":
            raise DataError(f"task {config.task} needs its data: set data.path to its file or folder")
        return EMBEDDED
    path = Path(config.path).expanduser()
    if not path.exists():
        raise DataError(f"data.path {path} does not exist; give the file or folder of {config.task}")
    return path


def data_hash(config: TaskDataConfig) -> str:
    """sha256 over names and bytes of what `load_task` may read: a run is made anew when it changes."""
    path = data_path(config)
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return hashlib.sha256("".join(f"{file.name}{sha256_of(file)}" for file in files).encode()).hexdigest()
