"""User vectors of a night: the newest that was available, in the run's space; who has none is counted, and who is deleted is gone."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.artifacts.manifest import rehashed, sha256_of
from recsys.artifacts.paths import RunError
from recsys.artifacts.user_rows import load_user_rows, save_user_rows
from recsys.data.dataset import Dataset
from recsys.embeddings.embed import load_user_vectors
from recsys.recommender import Request
from recsys.run import Run
from serving.refresh.refresh import refresh
from serving.user_state import delete
from tests.support.nights import Night

DAY = 1_050_000  # of the vectors that the run was made with; the night's are of a day later


def vectors(night: Night) -> np.ndarray:
    """One vector [U, d] a user of the run."""
    generator = np.random.default_rng(3)
    found = generator.normal(size=(Dataset.load(night.run).n_users, 16)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def brought(night) -> Night:
    """The run as if its user vectors had been brought."""
    folder = night.run.path / "embed"
    report = night.run.read_json("embed", "embed.json") | {"users": "brought", "space": "ours", "dim": 16}
    (folder / "embed.json").unlink()
    (folder / "embed.json").write_text(json.dumps(report))
    rows = torch.from_numpy(vectors(night))
    times = torch.full((len(rows),), DAY)
    save_user_rows(
        folder / "brought_users.safetensors", {"times": times, "vectors": rows}, torch.arange(len(rows))
    )
    records = {path.parent.name: json.loads(path.read_text()) for path in night.run.path.glob("*/stage.json")}
    names = ("embed.json", "brought_users.safetensors")
    for stage, record in rehashed(
        records, {"embed": {name: sha256_of(folder / name) for name in names}}
    ).items():
        path = night.run.path / stage / "stage.json"
        path.unlink()
        path.write_text(json.dumps(record))
    return Night(Run.open(night.run.path), night.folder)


def today(night: Night, noise: float = 0.0):
    """A file of vectors of the next day, in a turned basis, of all but the last two users, and of a stranger; and those vectors."""
    generator = np.random.default_rng(4)
    ids = Dataset.load(night.run).user_ids.tolist()[:-2]
    rows = vectors(night)[:-2]
    rows = rows + noise * generator.normal(size=rows.shape)
    turned = rows @ np.linalg.qr(generator.normal(size=(16, 16)))[0]
    whole = np.concatenate([turned, turned[:1]]).astype(np.float32)
    path = night.folder / "users.parquet"
    table = {
        "user_id": [*ids, "stranger"],
        "timestamp": [DAY + 86_400] * len(whole),
        "vector": pa.array(whole.tolist(), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(table), path)
    return path, rows


def of(night: Night, user: int, time: int) -> np.ndarray:
    found, known = load_user_vectors(Run.serving(night.run.path)).vectors([Request("r", user, time)])
    return found[0] if known[0] else np.zeros(16)


def test_the_newest_that_was_available_is_read_in_the_runs_space(brought):
    path, rows = today(brought, 0.05)
    found = refresh(brought.run.path, user_embeddings=path)
    told = found.facts["embeddings"]["users"]
    n = len(vectors(brought))
    assert (told["people"], told["unknown_ids"], told["people_without"]) == (n - 2, 1, 0)
    assert 0 < told["residual"] < 0.5
    before, after = of(brought, 3, DAY + 86_400), of(brought, 3, DAY + 86_401)
    np.testing.assert_allclose(before, vectors(brought)[3], atol=1e-6)
    assert np.abs(after - rows[3]).max() < 0.2 < np.abs(after - rows[4]).max()
    np.testing.assert_allclose(of(brought, n - 1, DAY + 90_000), vectors(brought)[n - 1], atol=1e-6)


def test_another_model_is_refused(brought):
    path, _ = today(brought, 50.0)
    with pytest.raises(ValueError, match="another model"):
        refresh(brought.run.path, user_embeddings=path)


def test_a_deleted_person_has_no_row_in_any_version(brought):
    path, _ = today(brought)
    refresh(brought.run.path, user_embeddings=path)
    delete(Run.open(brought.run.path), "u7")
    for folder in (brought.run.path, Run.serving(brought.run.path).path):
        rows = load_user_rows(folder / "embed" / "brought_users.safetensors")
        assert rows.users is not None
        assert 7 not in rows.users.tolist()
    assert not of(brought, 7, DAY + 90_000).any()


def test_a_run_whose_users_are_their_histories_needs_none(night):
    path, _ = today(night)
    with pytest.raises(RunError, match="made of histories"):
        refresh(night.run.path, user_embeddings=path)
