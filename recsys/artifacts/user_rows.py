"""Which rows of an artifact are whose: what lets one person's rows be read, handed over and deleted (by `serving/user_state.py`).

An artifact that holds rows of users is one of these, and says so itself:

  Parquet        a column `user` (the run's integer) or `user_id` (the raw id), one of them in every row
  safetensors    metadata `user_rows`: a JSON list of tensor names. Dense: their first dimension is the
                 user's integer. Sparse: a tensor `users` [n] (integers, ascending) says whose each of their
                 n rows is. `save_user_rows` writes both. (One metadata key: safetensors writes several in
                 random order, and hashes would differ)
  JSON           an object with a list `users` of integers; every list of that length beside it has a row each

Forgetting drops a person's rows; a dense row becomes zeros instead, so that everybody else's keeps its place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file

KEY, USERS = "user_rows", "users"
Columns = dict[str, list[Any]]  # name -> one value (a number, a text, nested lists of a tensor) for each row


@dataclass(frozen=True)
class Person:
    """A user as the run knows them: the raw id, and the integer that stands for it inside."""

    user_id: str
    number: int


@dataclass(frozen=True)
class UserRows:
    """What `load_user_rows` read: `rows` by name, whose they are (None: row u is user u's),
    and the other tensors.
    """

    rows: dict[str, torch.Tensor]
    users: torch.Tensor | None = None
    others: dict[str, torch.Tensor] = field(default_factory=dict)

    def places(self, users: np.ndarray) -> np.ndarray:
        """The (first) row of each user integer, shape of `users`; −1 where a user has none."""
        if self.users is None:
            n = len(next(iter(self.rows.values())))
            return np.where((users >= 0) & (users < n), users, -1)
        owners = self.users.numpy()
        if not len(owners):
            return np.full(np.shape(users), -1)
        found = np.searchsorted(owners, users).clip(max=len(owners) - 1)
        return np.where(owners[found] == users, found, -1)


def save_user_rows(
    path: Path,
    rows: Mapping[str, torch.Tensor],
    users: torch.Tensor | None = None,
    others: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write tensors that are keyed by user, and `others` that are not, as safetensors.

    Dense (`users` None): the first dimension of each of `rows` is the run's user integer. Sparse: row i of
    each is user `users[i]`'s; `users` [n] is ascending, and a user may have several rows. Raises `ValueError`
    otherwise.
    """
    lengths = {name: len(tensor) for name, tensor in rows.items()}
    metadata = {KEY: json.dumps(sorted(rows))}
    tensors = {**rows, **(others or {})}
    if len(tensors) < len(rows) + len(others or {}) or USERS in tensors:
        raise ValueError(
            f"{path.name}: a tensor's name occurs twice, or is '{USERS}', which names the owners"
        )
    if users is not None:
        if users.is_floating_point() or (len(users) and not bool((users[1:] >= users[:-1]).all())):
            raise ValueError(f"{path.name}: users must be ascending integers, one for each row")
        tensors[USERS], lengths[USERS] = users, len(users)
    if not rows or len(set(lengths.values())) != 1:
        raise ValueError(f"{path.name}: rows of users must have one length, got {lengths}")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, str(path), metadata)
    _settle(path)


def _settle(path: Path) -> None:
    """Put a safetensors file's metadata in order of name:
    the library's order changes from call to call, and with it the bytes of an artifact.
    """
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, f"{path}: the header of a safetensors file has grown"
        file.seek(8)
        file.write(text.ljust(size))


def load_user_rows(path: Path) -> UserRows:
    """Read what `save_user_rows` wrote.
    Raises `ValueError` for a file that does not say which rows are users'.
    """
    with safe_open(str(path), framework="pt") as file:
        names, sparse = _user_tensors(file)
        if not names:
            raise ValueError(f"{path} does not say which of its tensors have rows of users ('{KEY}')")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    rows = {name: tensors.pop(name) for name in names}
    return UserRows(rows, tensors.pop(USERS) if sparse else None, tensors)


def rows_of(path: Path, person: Person) -> Columns:
    """A person's rows of an artifact, by column; {} if it holds none, or is of another kind."""
    if path.suffix == ".parquet":
        keep = _of_others(path, person)
        if keep is None:
            return {}
        return pq.ParquetFile(path).read().filter(pc.invert(keep)).to_pydict()
    if path.suffix == ".safetensors":
        return {name: tensor.tolist() for name, tensor in _tensor_rows(path, person.number).items()}
    if path.suffix == ".json":
        loaded, names = _json_rows(path)
        mine = [at for at, user in enumerate(loaded[USERS]) if user == person.number] if names else []
        return {name: [loaded[name][at] for at in mine] for name in names} if mine else {}
    return {}


def forget(path: Path, person: Person, to: Path) -> None:
    """Write an artifact that holds rows of the person (`rows_of`) as `to`, without them."""
    if path.suffix == ".parquet":
        keep = _of_others(path, person)
        assert keep is not None, f"{path} holds no row of the person"
        pq.write_table(pq.ParquetFile(path).read().filter(keep), to)
    elif path.suffix == ".safetensors":
        _forget_tensor_rows(path, person.number, to)
    else:
        loaded, names = _json_rows(path)
        others = [at for at, user in enumerate(loaded[USERS]) if user != person.number]
        to.write_text(json.dumps(loaded | {name: [loaded[name][at] for at in others] for name in names}))


def forget_everyone(path: Path, to: Path) -> None:
    """Write an artifact as `to` without the rows of anybody; one that has none is copied as it is.

    Parquet, JSON and sparse tensors keep no row; dense tensors keep one row of zeros, the place of a user who
    is nobody.
    """
    shutil.copyfile(path, to)
    if path.suffix == ".parquet":
        table = pq.ParquetFile(path).read()
        if {"user", "user_id"} & set(table.column_names):
            pq.write_table(table.schema.remove_metadata().empty_table(), to)
    elif path.suffix == ".safetensors":
        with safe_open(str(path), framework="pt") as file:
            names, sparse = _user_tensors(file)
            if not names:
                return
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        rows = {name: tensors.pop(name) for name in names}
        rows = {name: rows[name][:0] if sparse else torch.zeros_like(rows[name][:1]) for name in names}
        save_user_rows(to, rows, tensors.pop(USERS)[:0] if sparse else None, tensors)
    elif path.suffix == ".json":
        loaded, names = _json_rows(path)
        if names:
            to.write_text(json.dumps(loaded | {name: [] for name in names}))


def is_nothing_but_rows(path: Path) -> bool:
    """Does a safetensors file hold rows of users and nothing else?"""
    if path.suffix != ".safetensors":
        return False
    with safe_open(str(path), framework="pt") as file:
        names, _ = _user_tensors(file)
        return bool(names) and set(file.keys()) <= {*names, USERS}


# -- the three kinds -----------------------------------------------------------------------------------------


def _of_others(path: Path, person: Person) -> pa.ChunkedArray | None:
    """Bool per row of a Parquet file: is it somebody else's, or nobody's? None if no row is the person's."""
    file = pq.ParquetFile(path)
    mine = []
    for column, value in (("user", person.number), ("user_id", person.user_id)):
        if column in file.schema_arrow.names:
            values = file.read(columns=[column])[column]
            values = values if column == "user" else pc.cast(values, pa.string())
            mine.append(pc.fill_null(pc.equal(values, value), False))
    if not mine:
        return None
    any_of = mine[0] if len(mine) == 1 else pc.or_(*mine)
    return pc.invert(any_of) if pc.any(any_of).as_py() else None


def _user_tensors(file: Any) -> tuple[list[str], bool]:
    """Names of the tensors that have rows of users (without `users` itself),
    and whether the form is sparse.
    """
    metadata, stored = file.metadata() or {}, list(file.keys())
    if KEY in metadata:
        return json.loads(metadata[KEY]), USERS in stored
    if USERS not in stored:
        return [], False
    # brought embeddings of runs made before this convention: all three tensors are aligned
    return sorted(set(stored) - {USERS}), True


def _tensor_rows(path: Path, number: int) -> dict[str, torch.Tensor]:
    """The person's rows [n, …] of each tensor; {} without any, or where all that there is are zeros."""
    with safe_open(str(path), framework="pt") as file:
        names, sparse = _user_tensors(file)
        if sparse:
            mine = file.get_tensor(USERS) == number
            return {name: file.get_tensor(name)[mine] for name in names} if bool(mine.any()) else {}
        slices = {name: file.get_slice(name) for name in names}
        rows = {
            name: part[number : number + 1] for name, part in slices.items() if number < part.get_shape()[0]
        }
        return rows if any(bool(row.any()) for row in rows.values()) else {}


def _forget_tensor_rows(path: Path, number: int, to: Path) -> None:
    with safe_open(str(path), framework="pt") as file:
        names, sparse = _user_tensors(file)
        if sparse:
            keep = file.get_tensor(USERS) != number
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            tensors |= {name: tensors[name][keep] for name in (*names, USERS)}
            save_file(tensors, str(to), file.metadata())
            return
    shutil.copyfile(path, to)  # in the copy the row is overwritten: a table may be larger than memory
    with open(to, "r+b") as raw:
        size = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(size))
        for name in names:
            (begin, end), rows = header[name]["data_offsets"], header[name]["shape"][0]
            if number < rows:
                width = (end - begin) // rows
                raw.seek(8 + size + begin + number * width)
                raw.write(bytes(width))


def _json_rows(path: Path) -> tuple[Any, list[str]]:
    """The parsed file, and the names of its lists that have a row for each of `users`; [] without such."""
    loaded = json.loads(path.read_text(encoding="utf-8"))
    users = loaded.get(USERS) if isinstance(loaded, dict) else None
    if not isinstance(users, list) or not all(isinstance(user, int) for user in users):
        return loaded, []
    aligned = [name for name, value in loaded.items() if isinstance(value, list) and len(value) == len(users)]
    return loaded, aligned
