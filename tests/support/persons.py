"""A person in a copy of the small run, and every trace that they leave."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from recsys.artifacts.user_rows import save_user_rows
from recsys.config import StageConfig
from recsys.run import Run

PERSON, NUMBER, GONE = "u7", 7, "u39"


MARK = 12345.678  # a value that stands in the person's rows and nowhere else


# of the methods that the small run trains: what each of them keeps of a user
OWN = [
    *(
        f"personalize/{key}-0/00000.safetensors"
        for key in ("oppu_ia3", "oppu_lora", "oppu_lora_pag", "oppu_lora_rag", "oppu_prompt")
    ),
    "personalize/per_pcs-0/users.safetensors",
    "personalize/tap_per-0.safetensors",
]


EXTRA = ("rows", "stream")  # stages of per-user rows, in the forms that methods use


def copy(run: Run, to: Path) -> Run:
    """Hard links: quick, and a deletion that wrote into a file instead of replacing it would spoil `small_run`."""
    shutil.copytree(run.path, to, copy_function=os.link)
    return Run.open(to)


def add_rows_of_users(run: Run, n_users: int) -> None:
    marked = torch.ones(n_users, 2, 3)
    marked[NUMBER] = MARK
    with run.stage("rows", StageConfig(), needs=["prepare"]).writing() as folder:
        (folder / "method").mkdir()
        others = {"projection": torch.full((n_users, 3), 2.0)}
        save_user_rows(folder / "method" / "dense.safetensors", {"prefix": marked}, others=others)
        users = torch.tensor([3, NUMBER, 20])
        save_user_rows(folder / "sparse.safetensors", {"lora": marked[users].bfloat16()}, users)
    with run.stage("stream", StageConfig(), needs=["prepare", "rows"]).writing() as folder:
        rows = {"user": [NUMBER, 3], "item": [1, 2], "time": [5, 6], "weight": [MARK, 1.0]}
        pq.write_table(pa.table(rows), folder / "events.parquet")
        pq.write_table(pa.table({"user_id": ["u3", PERSON], "group": [1, 0]}), folder / "groups.parquet")


def traces(folder: Path) -> list[str]:
    """Every place below `folder` where the id stands as a value, or a row with the person's integer or mark."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, kind = path.relative_to(folder).as_posix(), path.suffix
        if kind == ".parquet":
            frame = pq.ParquetFile(path).read().to_pandas()
            hits = any((frame[column].astype(str) == PERSON).any() for column in frame)
            hits |= any((frame[c] == NUMBER).any() for c in ("user", "users") if c in frame)
            hits |= any((frame[c] == MARK).any() for c in frame if frame[c].dtype == np.float64)
        elif kind == ".safetensors":
            with safe_open(str(path), "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                dense = json.loads((file.metadata() or {}).get("user_rows", "[]"))
            hits = "users" not in tensors and any(bool(tensors[key][NUMBER].any()) for key in dense)
            hits |= "users" in tensors and bool((tensors["users"] == NUMBER).any())
            mark = [torch.tensor(MARK).to(tensor.dtype) for tensor in tensors.values()]
            hits |= any(
                bool((t == m).any())
                for t, m in zip(tensors.values(), mark, strict=True)
                if t.is_floating_point()
            )
        elif "sqlite" in name:
            hits = re.search(rf"\b{PERSON}\b".encode(), path.read_bytes()) is not None
        else:
            text = re.sub(r"base64,[^\"]*", "", path.read_text(encoding="utf-8"))
            hits = re.search(rf"\b{PERSON}\b", text) is not None
            if kind == ".json":
                loaded = json.loads(text)
                users = loaded.get("users") if isinstance(loaded, dict) else None
                hits |= isinstance(users, list) and NUMBER in users
        if hits:
            found.append(name)
    return found


def snapshot(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if ".rewrite" not in path.parts
    }
