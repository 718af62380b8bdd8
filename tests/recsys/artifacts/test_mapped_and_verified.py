"""Arrays that stay on disk, and hashes that are not computed twice, unless something touched the file."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from recsys.artifacts import verified
from recsys.artifacts.arrays import map_arrays, read_columns
from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.paths import RunError
from recsys.artifacts.verified import NAME, VerifiedHashes


def test_mapped_arrays_are_those_of_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {
        "vectors": np.arange(12, dtype=np.float32).reshape(3, 4),
        "half": np.ones((2, 2), np.float16),
        "has": np.array([True, False, True]),
        "numbers": np.array([5, -1], np.int64),
        "none": np.zeros((0, 7), np.float32),
    }
    save_file(arrays, path, metadata={"made": "here"})
    found = map_arrays(path)
    assert found.keys() == arrays.keys()
    for name, values in load_file(path).items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        assert np.array_equal(found[name], values)
    found["vectors"][0] = 9  # ours alone
    assert np.array_equal(map_arrays(path)["vectors"], arrays["vectors"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"12345678",
        (1 << 60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(64) + b"12",
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F9","shape":[1],"data_offsets":[0,4]}}'.ljust(64) + b"1234",
    ],
)  # fmt: skip
def test_what_is_no_file_of_arrays_is_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"broken\.safetensors is damaged"):
        map_arrays(path)


def test_columns_are_read_in_place(tmp_path):
    table = pa.table(
        {
            "user": np.arange(50),
            "role": np.arange(50).astype(np.int8),
            "weight": np.ones(50, np.float32),
            "event": [f"kind {number % 3}" for number in range(50)],
        }
    )
    pq.write_table(table, tmp_path / "events.parquet", row_group_size=20)
    found = read_columns(tmp_path / "events.parquet", at_once=7)
    assert [values.dtype for values in found.values()] == [np.int64, np.int8, np.float32, object]
    for name, values in found.items():
        assert values.tolist() == table[name].to_pylist()
    pq.write_table(table[:0], tmp_path / "none.parquet")
    assert [len(values) for values in read_columns(tmp_path / "none.parquet").values()] == [0] * 4


@pytest.fixture
def counted(monkeypatch):
    """Every file is large, and each that is read is noted."""
    read = []

    def counting(path):
        read.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(verified, "LARGE", 1)
    monkeypatch.setattr(verified, "sha256_of", counting)
    return read


def test_a_file_is_read_once_until_it_is_touched(tmp_path, counted):
    path = tmp_path / "embed" / "big"
    path.parent.mkdir()
    path.write_bytes(b"before")
    before = sha256_of(path)
    assert [VerifiedHashes(tmp_path).sha256(path) for _ in range(3)] == [before] * 3
    assert counted == ["big"]
    stat = path.stat()
    path.write_bytes(b"after!")  # as long, and set back in time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert VerifiedHashes(tmp_path).sha256(path) == sha256_of(path) != before
    assert counted == ["big"] * 2


def test_a_record_from_elsewhere_is_worth_nothing(tmp_path, counted):
    path = tmp_path / "big"
    path.write_bytes(b"what is there")
    state = path.stat()
    row = [state.st_size, state.st_mtime_ns, state.st_ctime_ns + 1, state.st_ino, state.st_dev, "0" * 64]
    for record in ({"big": row}, {"big": row[:3]}, {"big": None}, [row], "no JSON"):
        (tmp_path / NAME).write_text(record if isinstance(record, str) else json.dumps(record))
        assert VerifiedHashes(tmp_path).sha256(path) == sha256_of(path)


def test_a_run_that_may_only_be_read_is_hashed_each_time(tmp_path, counted, monkeypatch):
    def refuse(path, text):
        raise PermissionError(path)

    monkeypatch.setattr(verified, "write_text_atomically", refuse)
    (tmp_path / "big").write_bytes(b"x")
    for _ in range(2):
        assert VerifiedHashes(tmp_path).sha256(tmp_path / "big") == sha256_of(tmp_path / "big")
    assert counted == ["big", "big"]
