"""P2P on a run: what training gives, the adapter of one user, and the analyses."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel

from llm.decoding.scoring import expected_hit_rate
from llm.stage1.model import load_adapted
from recsys.data.splits import FIT
from recsys.recommender import Request
from recsys.run import Run
from serving.answering.methods import Methods
from serving.cli import app
from serving.studies.p2p import analyse_p2p, training_parts
from tests.support.prompts import dataset

# -- a whole run ------------------------------------------------------------------------------------------------


def test_training_on_two_tastes_beats_its_start(small_run):
    config, run = small_run
    methods = Methods(run, config)
    validation = methods.world.validation
    for key in ("p2p", "p2p_summary"):
        reading = methods.reading(key)
        trained, start = (
            expected_hit_rate(replace(reading, strength=strength), validation.requests, validation.targets)
            for strength in (1.0, 0.0)
        )
        assert trained > start + 0.01


def test_the_command_writes_an_adapter_for_a_user_of_a_run(small_run, tmp_path):
    from typer.testing import CliRunner

    config, run = small_run
    called = ["export-adapter", str(run.path), "--user", "u3", "--query", "odd", "--out", str(tmp_path / "a")]
    result = CliRunner().invoke(app, called)
    assert result.exit_code == 0, result.output
    methods = Methods(run, config)
    data = methods.dataset
    time = int(data.times.max()) + 1
    user = data.user_index("u3")
    request = Request("x", user, time, *data.before(user, time), query="odd")
    reading = methods.reading("p2p")
    placed, condition = reading.conditioned(reading.prompts([request]), [request])
    packed = reading.model.pack(placed)
    base = load_adapted(run, config.adapt).inner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(base, str(tmp_path / "a"))
    with torch.no_grad():
        hidden = theirs(inputs_embeds=reading.model.embed(packed, None)[None]).last_hidden_state[0]
    torch.testing.assert_close(reading.model.hidden(packed, condition), hidden, rtol=1e-5, atol=1e-5)
    for wrong in (
        ["--user", "nobody"],
        ["--user", "u3", "--method", "e2p"],
        ["--user", "u3", "--method", "x"],
    ):
        out = CliRunner().invoke(app, ["export-adapter", str(run.path), "--out", str(tmp_path / "b"), *wrong])
        assert isinstance(out.exception, ValueError)


# -- analyses ---------------------------------------------------------------------------------------------------


def test_training_parts_are_equally_many_of_more_and_more_users():
    data = dataset()
    events = data.events(FIT)
    parts = training_parts(data, events)
    sizes = {name: len(part) for name, part in parts.items()}
    users = {name: len(np.unique(data.users[part])) for name, part in parts.items()}
    assert len({sizes[f"diversity {share}"] for share in ("0.125", "0.25", "0.5", "1")}) == 1
    assert [users[f"diversity {share}"] for share in ("0.125", "0.25", "0.5", "1")] == [1, 1, 3, 6]
    assert sizes["quantity 1"] == len(events)
    assert sizes["quantity 0.5"] == len(events) // 2
    assert users["quantity 0.125"] == 6
    _, most = np.unique(data.users[parts["diversity 1"]], return_counts=True)
    assert np.ptp(most) <= 1
    assert all(np.isin(part, events).all() and len(np.unique(part)) == len(part) for part in parts.values())


def test_the_analyses_of_a_run(small_run, tmp_path):
    config, run = small_run
    other = Run.create(tmp_path / "run")
    for stage in ("prepare", "embed", "tokenize", "adapt", "personalize"):
        shutil.copytree(run.path / stage, other.path / stage)
    shutil.copy(run.path / "config.yaml", other.path / "config.yaml")
    short = config.personalize.method("p2p").model_copy(
        update={"steps": 2}
    )  # only the encoder's is trained again
    personal = config.personalize.model_copy(update={"methods": (short, config.personalize.method("e2p"))})
    config = config.model_copy(update={"personalize": personal})
    found = analyse_p2p(Methods(other, config), "p2p", 20, ("backbone",), False, oppu_seconds=2.0)
    rows = {one["name"]: one for one in found["profiles"]}
    assert set(rows) == {
        "no context",
        "as trained",
        "summary only",
        "retrieved only",
        "full history",
        "random",
        "shuffled",
    }
    assert rows["as trained"]["hit_rate"] > rows["random"]["hit_rate"]  # another half's taste does not help
    assert [one["name"] for one in found["k"]] == ["0", "1", "2", "4", "8", "16", "32"]
    assert found["k"][0]["hit_rate"] == pytest.approx(rows["summary only"]["hit_rate"], abs=1e-6)
    assert found["k"][2]["hit_rate"] == pytest.approx(rows["as trained"]["hit_rate"], abs=1e-6)
    assert found["encoders"][0]["hit_rate"] == pytest.approx(rows["as trained"]["hit_rate"], abs=1e-6)
    # two steps from No Context
    assert found["encoders"][1]["hit_rate"] == pytest.approx(rows["no context"]["hit_rate"], abs=0.05)
    spent = found["time"]
    gain = 2.0 - spent["p2p_seconds_a_user"]
    assert spent["break_even_users"] == pytest.approx(spent["p2p_training_seconds_estimated"] / gain)
    folder = other.path / "analyses" / "p2p"
    assert {path.name for path in folder.iterdir()} == {"p2p.json", "profiles.png", "k.png", "time.png"}
    with pytest.raises(ValueError, match="not a P2P method"):
        analyse_p2p(Methods(other, config), "e2p")
