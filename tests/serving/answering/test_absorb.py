"""Feedback absorbed: others stay as they are to the bit, and kills leave before or after."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from llm.methods.stage2 import lm_loss
from llm.methods.user_states import OnlineConfig, absorb
from recsys.data.splits import TEST
from recsys.recommender import Request
from recsys.run import Run
from serving import Recommender
from serving.answering.requests import request_of
from serving.pipeline import run_all
from serving.report.attention import attention_of
from serving.studies.online_full import online_full
from tests.support.command_line import prelude


@pytest.fixture
def copy(world_run, tmp_path) -> Run:
    other = tmp_path / "run"
    shutil.copytree(world_run[1].path, other)
    return Run.open(other)


NEW = [("u0", "i2", 2_000_000), ("u0", "i4", 2_000_100), ("u3", "i9", 2_000_000), ("newcomer", "i6", 1_500_000),
       ("newcomer", "i8", 2_000_050), ("newcomer", "i10", 2_000_060)]  # fmt: skip


OTHERS = ("u1", "u2", "u17")


def answers(service: Recommender, users, methods=("tap_per", "e2p", "no_context")):
    return {
        (user, name): service.recommend(user, n=20, method=name).items for user in users for name in methods
    }


# -- Recommender.update -----------------------------------------------------------------------------------------


def test_an_update_moves_its_users_and_leaves_every_other_bit_identical(copy):
    service = Recommender.load(copy.path)
    strangers, mine = answers(service, (*OTHERS, "nobody")), answers(service, ("u0", "u3", "newcomer"))
    personalizer = service.method("tap_per").reading.personalizer
    everybody = [Request(f"r{user}", user, 10**7) for user in range(40)]
    with torch.no_grad():
        before = personalizer.user_states(everybody)
    table = {name: tensor.clone() for name, tensor in personalizer.state_dict().items()}
    done = service.update(NEW)
    assert (done.absorbed, done.events, done.users, done.new_users, done.steps) == (True, 6, 3, 1, 2)
    assert service.method("tap_per").model.kept_session is None
    with torch.no_grad():
        after = personalizer.user_states(everybody)
    changed = [user for user in range(40) if not torch.equal(before[user], after[user])]
    assert [service.methods.dataset.user_ids[user] for user in changed] == ["u0", "u3"]
    assert all(torch.equal(tensor, table[name]) for name, tensor in personalizer.state_dict().items())
    assert answers(service, (*OTHERS, "nobody")) == strangers
    now = answers(service, ("u0", "u3", "newcomer"))
    assert all(now[key] != mine[key] for key in now)  # recent items, vectors and P_u are all new
    assert service.recommend("newcomer", n=1, method="e2p").path == "personalized"
    again = Recommender.load(copy.path)
    assert answers(again, ("u0", "u3", "newcomer", *OTHERS)) == now | answers(service, OTHERS)


def test_a_product_reads_the_rows_that_an_update_has_moved(copy):
    """A factor of a product is built apart from the method that is asked for by its name, and is the same."""
    service = Recommender.load(copy.path)
    factor = service.methods.scorer("tap_per")
    service.update(NEW)
    data, histories = service.methods.dataset, service.live.histories
    requests = [request_of(data, histories, user) for user in ("u0", "newcomer", "u1")]
    alone = service.method("tap_per").scores(requests)
    np.testing.assert_allclose(factor.scores(requests), alone, atol=1e-5)


def test_histories_vectors_and_records_see_the_new_events_at_once(copy):
    service = Recommender.load(copy.path)
    service.update(NEW)
    data, histories = service.methods.dataset, service.live.histories
    request = request_of(data, histories, "u0")
    assert request.history[-2:].tolist() == [
        service.methods.dataset.catalogue.index_of(i) for i in ("i2", "i4")
    ]
    assert request.time == 2_000_101
    early = request_of(data, histories, "u0", time=2_000_100)
    assert early.history[-1] == request.history[-2]
    assert len(early.history) == len(request.history) - 1
    vectors = [service.methods.users.vectors([one])[0] for one in (request, early)]
    assert not np.array_equal(*vectors)
    found = attention_of(service, "newcomer")
    assert len(found.items) == 3
    assert list(found.weights) == [
        "TAP-PER, as trained",
        "TAP-PER, λ set to 0",
        "no decay, trained without λ",
    ]
    assert all(alpha.sum() == pytest.approx(1, abs=1e-5) for alpha in found.weights.values())
    assert found.picture("x")[:4] == b"\x89PNG"


def test_a_batch_is_absorbed_once_and_an_event_too(copy):
    service = Recommender.load(copy.path)
    service.update(NEW, batch_id="monday")
    state = answers(service, ("u0", "newcomer"))
    assert not service.update(NEW, batch_id="monday").absorbed
    assert not Recommender.load(copy.path).update(list(reversed(NEW)), "monday").absorbed
    with pytest.raises(ValueError, match="'monday' was used for other events"):
        service.update(NEW[:2], "monday")
    repeated = service.update(NEW[:4])  # another batch id: its events are known
    assert (repeated.events, repeated.known, repeated.steps) == (0, 4, 0)
    assert answers(service, ("u0", "newcomer")) == state
    twice = service.update([("u0", "i12", 3_000_000)] * 2)
    assert (twice.events, twice.known) == (1, 1)
    late = service.update([("u0", "i14", 5)])  # before all that is known of them
    assert late.events == 1
    user = service.live.histories.user_index("u0")
    items, times = service.live.histories.events(user)
    assert times[0] == 5
    assert (np.diff(times) >= 0).all()
    assert service.methods.dataset.catalogue.item_ids[items[0]] == "i14"


@pytest.mark.parametrize(
    ("events", "match"),
    [
        ([NEW[0], ("u1", 9.5, 5)], r"events\[1\]: item_id: id 9.5 is a number"),
        ([("u1", "i9", 1.5)], r"events\[0\]: time is 1.5; expected whole Unix seconds"),
        ([("u1", "i9", 10**12)], r"events\[0\]: time is 1000000000000; expected"),
        ([("", "i9", 5)], r"events\[0\]: user_id is blank"),
        ([("u1", "i9")], r"events\[0\]: expected \(user_id"),
    ],
)
def test_bad_feedback_is_refused_by_place_and_nothing_is_absorbed(copy, events, match):
    with pytest.raises(ValueError, match=match):
        Recommender.load(copy.path).update(events)
    assert not (copy.path / "live").exists()


def test_a_service_takes_in_what_another_process_absorbed_before_it_writes(copy):
    one, other = Recommender.load(copy.path), Recommender.load(copy.path)
    assert one.live.seq == other.live.seq == 0
    one.update(NEW[:2])
    other.update(NEW[2:])
    assert other.live.seq == 6
    assert answers(other, ("u0", "u3")) == answers(Recommender.load(copy.path), ("u0", "u3"))


def test_events_outlast_the_runs_training_and_rows_of_p_u_go_with_it(copy):
    service = Recommender.load(copy.path)
    service.update(NEW)
    users = [service.live.histories.user_index(user_id) for user_id in ("u0", "u3", "newcomer")]
    fresh = Recommender.load(copy.path)
    assert [fresh.live.histories.user_index(user_id) for user_id in ("u0", "u3", "newcomer")] == users
    assert all(user in fresh.live.rows("tap_per") for user in users)
    assert 1 not in fresh.live.rows("tap_per")
    record = json.loads((copy.path / "personalize" / "stage.json").read_text())
    record["finished_unix_s"] += 1.0  # trained again
    (copy.path / "personalize" / "stage.json").write_text(json.dumps(record))
    again = Recommender.load(copy.path)
    assert again.live.histories.user_index("newcomer") == users[2]
    assert not any(user in again.live.rows("tap_per") for user in users)
    assert len(again.live.histories.events(users[2])[0]) == 3


def test_an_update_lowers_the_loss_of_its_events_and_online_full_moves_what_is_shared(copy, tmp_path):
    service = Recommender.load(copy.path)
    reading = service.method("tap_per").reading
    data = service.methods.dataset
    events = data.events(TEST)[:12]
    requests, targets = data.requests(events, False), data.items[events]
    module = reading.personalizer
    config = OnlineConfig(passes=20, batch=12)
    with torch.no_grad():
        start = float(lm_loss(reading, requests, targets))
    bridge = [b.clone() for b in module.bridge.b]
    done = absorb("emb", reading, requests, targets, config, 0.05, tmp_path / "a")
    with torch.no_grad():
        emb = float(lm_loss(reading, requests, targets))
    assert emb < start - 0.05
    assert all(torch.equal(a, b) for a, b in zip(bridge, module.bridge.b, strict=True))
    assert done.users.tolist() == sorted(module.later) == np.unique(data.users[events]).tolist()
    table = module.p_u.clone()
    absorb("full", reading, requests, targets, config, 0.05, tmp_path / "b", full=True)
    assert not torch.equal(bridge[0], module.bridge.b[0])
    assert torch.equal(table, module.p_u)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_online_full_makes_a_new_run_and_leaves_the_old_one(copy, tmp_path, monkeypatch, capsys):
    old = {
        p.relative_to(copy.path): p.read_bytes()
        for p in copy.path.rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    out = tmp_path / "next"
    done = online_full(copy.path, NEW, out)
    assert done.steps > 0
    now = {
        p.relative_to(copy.path): p.read_bytes()
        for p in copy.path.rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    assert now == old
    ours, theirs = (load_file(run / "personalize" / "tap_per-0.safetensors") for run in (copy.path, out))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] != []
    assert torch.equal(ours["p_u"], theirs["p_u"])  # moved rows lie in the journal
    service = Recommender.load(out)
    assert len(service.recommend("newcomer", n=3, method="tap_per")) == 3
    assert service.update([("u1", "i3", 4_000_000)]).absorbed
    assert run_all(service.methods.config, Run.create(out), until="personalize") is None  # nothing runs again
    assert capsys.readouterr().out.count("not run again") == 5
    Recommender.load(copy.path).update(NEW)
    nightly = online_full(
        copy.path, NEW, tmp_path / "nightly"
    )  # what the day has absorbed is trained on, and not doubled
    assert (nightly.events, nightly.known) == (0, 6)
    assert nightly.steps > 0
    histories = Recommender.load(tmp_path / "nightly").live.histories
    assert len(histories.events(histories.user_index("newcomer"))[0]) == 3
    with pytest.raises(ValueError, match="is not overwritten"):
        online_full(copy.path, NEW, out)


def test_the_commands(copy, tmp_path, monkeypatch, capsys):
    path = tmp_path / "new.csv"
    pd.DataFrame(NEW, columns=["user_id", "item_id", "timestamp"]).to_csv(path, index=False)
    for said in ("absorbed 6 events of 3 users (1 of them new", "had been absorbed before"):
        code, out, err = prelude(monkeypatch, capsys, "update", copy.path, "--events", path)
        assert code == 0, err
        assert said in out.replace("\n", " ")
    picture = tmp_path / "a.png"
    code, out, err = prelude(monkeypatch, capsys, "attention", copy.path, "--user", "u0", "--out", picture)
    assert code == 0, err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "Title" in out
    code, _, err = prelude(
        monkeypatch, capsys, "attention", copy.path, "--user", "stranger", "--out", picture
    )
    assert code == 2
    assert "'stranger' is unknown" in err
