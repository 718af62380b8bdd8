"""`prelude value` on lists that a service has drawn from a run: the policy's own probabilities, refusals, and arms."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from serving.cli import app
from serving.service.client import Client
from serving.service.settings import Experiment, ServiceConfig, load_settings
from serving.state.store import State
from serving.value.job import NoSupport, Policy, value
from tests.support.serving_http import served

LISTS = 36
ARMS = {"warmth": {"salt": "s1", "arms": {"cold": {"temperature": 0.5}, "warm": {"temperature": 1.5}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("value")


@pytest.fixture(scope="module")
def run(world_run) -> Path:
    return world_run[1].path


@pytest.fixture(scope="module")
def client(run, folder) -> Iterator[Client]:
    """A service that has shown 240 lists of every drawn kind, of which items of the user's own kind were clicked."""
    with served(run, folder, experiments=ARMS) as client:
        for start in range(0, 240, 40):
            asked = [asked_by(n) for n in range(start, start + 40)]
            for form, answer in zip(asked, client.recommend_batch(asked).answers, strict=True):
                kind = int(form["user_id"][1:]) % 2
                events = [
                    {"event_id": f"{answer.recommendation_id}-{item.item_id}", "user_id": form["user_id"], "item_id": item.item_id,
                     "type": "click", "recommendation_id": answer.recommendation_id, "timestamp": 1_030_000 + start}
                    for item in answer.items if int(item.item_id[1:]) % 2 == kind
                ]  # fmt: skip
                if events:
                    client.send(*events)
        yield client


def asked_by(n: int) -> dict:
    form = {"user_id": f"u{n % 40}", "n": 2 + n % 2, "temperature": 1.0}
    if n % 3 == 0:
        form |= {"caps": {"kind": 2}}
    if n % 3 == 1:
        form |= {"exclude": ["i1", "i2"], "query": "even"}
    return form


@pytest.fixture
def state(client, folder) -> Iterator[State]:
    opened = State(f"sqlite:///{folder}/state.sqlite")
    yield opened
    opened.close()


def value_of(run, state, **policy):
    return value(run, state, Policy(**policy), ServiceConfig())


def test_what_was_shown_is_worth_what_it_earned(run, state):
    """The policy that drew the lists has weights of one on each of them, whatever was learned and clicked since."""
    found = value_of(run, state, method="e2p", temperature=1.0)
    assert found.lists == 240
    assert found.effective == pytest.approx(240, rel=1e-3)
    for one in (found.ips, found.snips):
        assert one.value == pytest.approx(found.logged.value, rel=2e-3)
    assert abs(found.dr.value - found.logged.value) < 2 * found.dr.error, (
        "its prediction is of other users' lists"
    )
    assert found.users == 40


def test_another_policy_has_another_value(run, state):
    e2p, popular = value_of(run, state), value_of(run, state, method="no_context", temperature=1.0)
    assert popular.effective < e2p.effective
    assert popular.ips.interval[0] <= popular.dr.value <= popular.ips.interval[1]


def test_lists_in_sequence_have_their_own_probabilities(run, tmp_path):
    with served(run, tmp_path) as client:
        for n in range(60):
            client.recommend(user_id=f"u{n % 20}", n=3, temperature=1.0, sequence=True)
    state = State(f"sqlite:///{tmp_path}/state.sqlite")
    found = value_of(run, state)
    assert found.effective == pytest.approx(60, rel=1e-3)
    assert found.dr is None
    state.close()


def test_where_there_is_no_support_there_is_no_figure(run, state, tmp_path):
    with pytest.raises(NoSupport, match="temperature 0"):
        value_of(run, state, temperature=0.0)
    with pytest.raises(NoSupport, match="only ranks"):
        value_of(run, state, method="popularity")
    with pytest.raises(NoSupport, match="hardly ever shown"):
        value_of(run, state, temperature=0.02)
    empty = State(f"sqlite:///{tmp_path}/state.sqlite")
    with pytest.raises(NoSupport, match="no list"):
        value_of(run, empty)
    empty.close()
    with served(run, tmp_path) as client:
        client.recommend(user_id="u1")
        for n in range(40):
            client.recommend(user_id=f"u{n}", n=1, temperature=1.0)
    some = State(f"sqlite:///{tmp_path}/state.sqlite")
    with pytest.raises(NoSupport, match="1 of 41 lists were not drawn"):
        value_of(run, some)
    assert value(run, some, Policy(), ServiceConfig(), drawn_only=True).lists == 40
    some.close()


def test_a_list_that_has_changed_since_is_no_support(run, tmp_path):
    with served(run, tmp_path) as client:
        client.put_list("stock", [f"i{n}" for n in range(30)])
        for n in range(40):
            client.recommend(user_id=f"u{n}", n=1, temperature=1.0, allow="stock")
        state = State(f"sqlite:///{tmp_path}/state.sqlite")
        assert value_of(run, state).lists == 40
        client.put_list("stock", ["i1"])
        with pytest.raises(NoSupport, match="stock"):
            value_of(run, state)
        state.close()


def test_arms_are_dealt_by_user_and_compared(run, folder, client):
    arms = {n: client.recommend(user_id=f"u{n}", n=1).arm for n in range(40)}
    assert set(arms.values()) == {"warmth=cold", "warmth=warm"}
    assert client.recommend(n=1).arm is None
    assert client.recommend(user_id="u1", n=1).items[0].probability is not None, "the arm's temperature draws"
    assert client.recommend(user_id="u1", n=1, temperature=0.0).items[0].probability is None, (
        "what the caller says holds"
    )
    done = CliRunner().invoke(
        app, ["value", str(run), "--arms", "warmth", "--log", f"sqlite:///{folder}/state.sqlite", "--json"]
    )
    told = json.loads(done.output)
    assert [arm["name"] for arm in told["arms"]] == ["cold", "warm"]
    assert sum(arm["users"] for arm in told["arms"]) == 40
    (pair,) = told["pairs"].values()
    assert (
        pair["always"][0] < pair["interval"][0] < pair["difference"] < pair["interval"][1] < pair["always"][1]
    )
    with pytest.raises(ValueError, match="no list"):
        CliRunner().invoke(
            app,
            ["value", str(run), "--arms", "x", "--log", f"sqlite:///{folder}/state.sqlite"],
            catch_exceptions=False,
        )


def test_the_command_prints_a_table_and_json(run, folder, client):
    base = ["value", str(run), "--log", f"sqlite:///{folder}/state.sqlite", "--drawn-only"]
    done = CliRunner().invoke(app, [*base, "--temperature", "1.1"], catch_exceptions=False)
    assert "doubly robust" in done.output
    assert "IPS" in done.output
    told = json.loads(
        CliRunner().invoke(app, [*base, "--json", "--reward", "like"], catch_exceptions=False).output
    )
    assert told["ips"]["value"] == 0.0
    with pytest.raises(ValueError, match="--reward"):
        CliRunner().invoke(app, [*base, "--reward", "kiss"], catch_exceptions=False)


def test_arms_are_even_and_of_the_salt():
    one, two = (Experiment.model_validate(ARMS["warmth"] | {"salt": salt}) for salt in ("a", "b"))
    users = [f"u{n}" for n in range(4000)]
    first, second = ([experiment.arm_of(user) == "warm" for user in users] for experiment in (one, two))
    assert abs(np.mean(first) - 0.5) < 0.03
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    with pytest.raises(ValueError, match="both set temperature"):
        ServiceConfig.model_validate({"experiments": {"a": ARMS["warmth"], "b": ARMS["warmth"]}})


def test_a_policy_knows_of_a_person_what_it_knew_when_the_list_was_shown(run, tmp_path):
    """Rows of P_u have learned what the lists earned: by them the items that were clicked would be likelier than they were."""
    with served(run, tmp_path) as client:
        asked = [{"user_id": f"u{n}", "n": 1, "temperature": 1.0, "method": "tap_per"} for n in range(LISTS)]
        answers = client.recommend_batch(asked).answers
        client.send(*({"event_id": f"e{n}", "user_id": f"u{n}", "item_id": answer.items[0].item_id, "type": "click",
                       "recommendation_id": answer.recommendation_id} for n, answer in enumerate(answers)))  # fmt: skip
        until = time.monotonic() + 60
        while not client.export_user("u0")["service"]["states"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        client.recommend(**asked[0])
    state = State(f"sqlite:///{tmp_path}/state.sqlite")
    found = value_of(run, state)
    assert found.lists == LISTS + 1
    assert found.largest == pytest.approx(1, abs=1e-3)
    assert found.effective == pytest.approx(LISTS + 1, rel=1e-3)
    state.close()


@pytest.mark.parametrize("name", ["a,b", "a=b", "x" * 61, ""])
def test_names_that_lists_could_not_be_found_by_are_refused(name, tmp_path):
    arms = {"cold": {}, "warm": {}}
    for experiments in (
        {name: {"salt": "s", "arms": arms}},
        {"e": {"salt": "s", "arms": {name: {}, "b": {}}}},
    ):
        config = tmp_path / "service.yaml"
        config.write_text(yaml.safe_dump({"experiments": experiments}))
        with pytest.raises(ValueError, match=f"{config} is not valid:\n  experiments"):
            load_settings(config)
