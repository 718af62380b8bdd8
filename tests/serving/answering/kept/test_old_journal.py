"""Feedback as earlier versions kept it is taken over by whatever loads the run: events, batches, rows of P_u."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.paths import RunError
from recsys.artifacts.user_rows import save_user_rows
from recsys.run import Run
from serving import Recommender
from serving.answering.live import digest_of
from serving.playlists.plan import absorbed_by
from tests.support.serving_http import served

OLD = [("u0", "i2", 2_000_000), ("newcomer", "i6", 1_500_000), ("newcomer", "i8", 2_000_050)]


@pytest.fixture
def old(world_run, tmp_path) -> Run:
    """A run with a journal of two batches, the second with a row of P_u of each of its people."""
    run = Run.open(shutil.copytree(world_run[1].path, tmp_path / "run"))
    folder = run.path / "live"
    folder.mkdir()
    data = Recommender.load(run.path).methods.dataset
    users, batches = {"u0": data.user_index("u0"), "newcomer": data.n_users}, []
    for number, some in enumerate((OLD[:1], OLD[1:]), 1):
        columns = {
            "user": [users[user] for user, *_ in some],
            "user_id": [user for user, *_ in some],
            "item": [data.catalogue.index_of(item) for _, item, _ in some],
            "time": [time for *_, time in some],
        }
        names = {"events": f"events-{number:06}.parquet", "states": None}
        pq.write_table(pa.table(columns), folder / names["events"])
        people = sorted(set(columns["user"]))
        if number == 2:
            width = Recommender.load(run.path).method("tap_per").reading.personalizer.p_u.shape[1]
            names["states"] = f"states-{number:06}.safetensors"
            rows = {"tap_per": torch.full((len(people), width), 0.5)}
            save_user_rows(folder / names["states"], rows, torch.tensor(people))
        batches.append({"id": f"b{number}", "digest": digest_of(some), "people": people} | names)
    files = [name for batch in batches for name in (batch["events"], batch["states"]) if name]
    record = {
        "fingerprint": "0" * 64,
        "made_from": {"stage": "live", "config": {}, "stages": {}, "outside": {}, "format": 1},
        "artifacts": {name: sha256_of(folder / name) for name in files},
        "seconds": 0.0,
        "finished_unix_s": 0.0,
        "batches": batches,
    }
    (folder / "stage.json").write_text(json.dumps(record))
    run.update_manifest()
    return run


def test_a_journal_becomes_the_state_and_its_files_go(old):
    with pytest.raises(RunError, match="an earlier Prelude kept it"):
        absorbed_by(old)
    for _ in range(2):
        service = Recommender.load(old.path)
        histories, rows = service.live.histories, service.live.rows("tap_per")
        new = histories.user_index("newcomer")
        assert histories.events(new)[1].tolist() == [1_500_000, 2_000_050]
        assert histories.events(histories.user_index("u0"))[1][-1] == 2_000_000
        assert rows[new].unique().tolist() == [0.5] if new in rows else False
        assert histories.user_index("u0") not in rows
    assert [path.name for path in (old.path / "live").iterdir() if path.suffix in (".parquet", ".json")] == []
    assert "live" not in json.loads((old.path / "manifest.json").read_text())["stages"]
    assert not service.update(OLD[:1], "b1").absorbed
    assert (again := service.update(OLD[1:], "another")).known == 2
    assert again.events == 0
    assert absorbed_by(old)[0] == 5


def test_a_service_of_such_a_run_starts(old, tmp_path):
    with served(old.path, tmp_path) as client:
        assert client.recommend(user_id="newcomer").path == "personalized"
