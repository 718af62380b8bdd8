"""The conventions by which an artifact says whose rows it holds: saved, read, and one person's forgotten."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from recsys.artifacts.user_rows import Person, forget, load_user_rows, rows_of, save_user_rows

ANNA = Person("anna", 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_a_dense_row_becomes_zeros_and_no_other_byte_changes(tmp_path, dtype):
    table = (torch.arange(5 * 2 * 3).view(5, 2, 3) + 1).to(dtype)
    bias, shared = (torch.arange(5) + 7).to(torch.float32), torch.ones(5, 4)
    save_user_rows(tmp_path / "a.safetensors", {"prefix": table, "bias": bias}, others={"w": shared})
    read = load_user_rows(tmp_path / "a.safetensors")
    assert read.users is None
    assert read.rows.keys() == {"prefix", "bias"}
    assert torch.equal(read.others["w"], shared)
    assert rows_of(tmp_path / "a.safetensors", ANNA) == {"prefix": table[2:3].tolist(), "bias": [9.0]}

    forget(tmp_path / "a.safetensors", ANNA, tmp_path / "b.safetensors")
    after = load_file(tmp_path / "b.safetensors")
    table[2], bias[2] = 0, 0
    assert torch.equal(after["prefix"], table)
    assert torch.equal(after["bias"], bias)
    assert torch.equal(after["w"], shared)  # five rows too, but not of users
    assert load_user_rows(tmp_path / "b.safetensors").rows.keys() == {"prefix", "bias"}  # it still says so
    assert rows_of(tmp_path / "b.safetensors", ANNA) == {}


def test_sparse_rows_are_dropped_and_the_others_keep_their_owners(tmp_path):
    users = torch.tensor([0, 2, 2, 5])
    rows = {"times": torch.tensor([1, 2, 3, 4]), "vectors": torch.randn(4, 3)}
    others = {"w": torch.randn(4, 4)}
    save_user_rows(tmp_path / "a.safetensors", rows, users, others)
    for again in range(8):  # the same bytes each time
        save_user_rows(tmp_path / f"{again}.safetensors", rows, users, others)
        assert (tmp_path / f"{again}.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    assert rows_of(tmp_path / "a.safetensors", ANNA)["times"] == [2, 3]
    forget(tmp_path / "a.safetensors", ANNA, tmp_path / "b.safetensors")
    after = load_user_rows(tmp_path / "b.safetensors")
    assert after.users is not None
    assert after.users.tolist() == [0, 5]
    assert torch.equal(after.rows["vectors"], rows["vectors"][[0, 3]])
    assert torch.equal(after.others["w"], others["w"])
    assert after.places(np.array([5, 2, 0, 9])).tolist() == [1, -1, 0, -1]
    assert load_user_rows(tmp_path / "a.safetensors").places(np.array([2])).tolist() == [1]
    assert rows_of(tmp_path / "b.safetensors", ANNA) == {}


def test_brought_embeddings_of_older_runs_need_no_metadata(tmp_path):
    save_file(
        {"users": torch.tensor([4, 2, 4]), "times": torch.tensor([1, 2, 3])}, tmp_path / "a.safetensors"
    )
    forget(tmp_path / "a.safetensors", ANNA, tmp_path / "b.safetensors")
    assert {name: tensor.tolist() for name, tensor in load_file(tmp_path / "b.safetensors").items()} == {
        "users": [4, 4],
        "times": [1, 3],
    }


def test_a_user_outside_a_dense_table_has_no_row_in_it(tmp_path):
    save_user_rows(tmp_path / "a.safetensors", {"w": torch.ones(2, 3)})
    assert rows_of(tmp_path / "a.safetensors", ANNA) == {}
    assert load_user_rows(tmp_path / "a.safetensors").places(np.array([1, 2, -1])).tolist() == [1, -1, -1]


@pytest.mark.parametrize(
    ("rows", "users", "others", "message"),
    [
        ({"a": torch.ones(3)}, torch.tensor([2, 1, 3]), {}, "ascending"),
        ({"a": torch.ones(3)}, torch.tensor([1.0, 2.0, 3.0]), {}, "ascending integers"),
        ({"a": torch.ones(3)}, torch.tensor([1, 2]), {}, "one length"),
        ({"a": torch.ones(3), "b": torch.ones(4)}, None, {}, "one length"),
        ({}, None, {"w": torch.ones(1)}, "one length"),
        ({"a": torch.ones(3)}, None, {"a": torch.ones(1)}, "twice"),
        ({"users": torch.ones(3)}, None, {}, "names the owners"),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused(tmp_path, rows, users, others, message):
    with pytest.raises(ValueError, match=message):
        save_user_rows(tmp_path / "a.safetensors", rows, users, others)


def test_a_file_that_does_not_say_whose_rows_it_holds_is_refused(tmp_path):
    save_file({"w": torch.ones(3, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="does not say"):
        load_user_rows(tmp_path / "a.safetensors")
    assert rows_of(tmp_path / "a.safetensors", ANNA) == {}  # shared weights hold nobody's row


def test_parquet_rows_are_found_by_integer_or_by_id(tmp_path):
    path, to = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(pa.table({"user": [2, 1, None, 2], "x": ["a", "b", "c", "d"]}), path)
    assert rows_of(path, ANNA) == {"user": [2, 2], "x": ["a", "d"]}
    forget(path, ANNA, to)
    assert pq.read_table(to).to_pydict() == {"user": [1, None], "x": ["b", "c"]}  # nobody's row stays

    pq.write_table(pa.table({"user_id": ["annabel", "anna"], "group": [3, 4]}), path)
    assert rows_of(path, ANNA) == {"user_id": ["anna"], "group": [4]}
    forget(path, ANNA, to)
    assert pq.read_table(to).to_pydict() == {"user_id": ["annabel"], "group": [3]}

    pq.write_table(pa.table({"user_id": [41, 42]}), path)  # ids that a file gives as numbers
    assert rows_of(path, Person("42", 2)) == {"user_id": [42]}
    pq.write_table(pa.table({"item_id": ["anna"], "users": [2]}), path)  # an item of that name; a count
    assert rows_of(path, ANNA) == {}


def test_json_lists_beside_users_are_aligned(tmp_path):
    path, to = tmp_path / "a.json", tmp_path / "b.json"
    path.write_text(json.dumps({"users": [2, 7], "labels": ["x", "y"], "seeds": [1, 2, 3], "n": 2}))
    assert rows_of(path, ANNA) == {"users": [2], "labels": ["x"]}
    forget(path, ANNA, to)
    assert json.loads(to.read_text()) == {"users": [7], "labels": ["y"], "seeds": [1, 2, 3], "n": 2}
    for other in ('{"users": "history"}', '{"users": 2}', "[2]", "null"):
        path.write_text(other)
        assert rows_of(path, ANNA) == {}
