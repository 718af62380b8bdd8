"""Who may call: keys, scopes, rates, sizes, hosts, other sites; and where `prelude serve` refuses to listen."""

from __future__ import annotations

import time

import pytest
from typer.testing import CliRunner

import serving.service.access as access
from serving.cli import app
from serving.service.access import is_loopback
from serving.service.client import Client, ServiceError
from serving.state import keys
from tests.support.serving_http import served, service_of

EVENT = {"event_id": "1", "user_id": "u1", "item_id": "i1", "type": "like"}


@pytest.fixture
def quick(monkeypatch):
    """What is looked up of keys is looked up again at once."""
    monkeypatch.setattr(access, "REMEMBERED_S", 0.0)


def test_scopes_say_what_a_key_may_do(world_run, tmp_path, quick):
    with served(world_run[1].path, tmp_path) as client:
        assert client.recommend(user_id="u1").items, "without a key there is none to be asked for on loopback"
        state = service_of(client).state
        given = {
            name: state.write(lambda connection, name=name: keys.make_key(connection, name, [name]))
            for name in keys.SCOPES
        }
        may = {
            "recommend": lambda one: one.recommend(user_id="u1"),
            "events": lambda one: one.send(EVENT),
            "admin": lambda one: one.user("u1"),
        }
        for holder, key in given.items():
            one = Client("", http=client.http)
            client.http.headers["X-API-Key"] = key
            for what, call in may.items():
                if holder in (what, "admin"):
                    call(one)
                else:
                    with pytest.raises(ServiceError, match="403"):
                        call(one)
        for wrong in ("", "prelude_x_y", given["admin"][:-1]):
            client.http.headers["X-API-Key"] = wrong
            with pytest.raises(ServiceError, match="401"):
                client.recommend(user_id="u1")
        client.http.headers["X-API-Key"] = given["events"]
        (id_,) = [key.id for key in keys.all_keys(state) if key.name == "events"]
        state.write(lambda connection: keys.drop_key(connection, id_))
        with pytest.raises(ServiceError, match="401"):
            client.send(EVENT)
        assert client.ready(), "health needs no key"


def test_whoever_calls_too_often_is_told_when_to_come_again(world_run, tmp_path):
    with served(world_run[1].path, tmp_path, rate_per_s=5, burst=3) as client:
        codes = [client.http.get("/v1/items", params={"q": "x"}) for _ in range(6)]
        assert [response.status_code for response in codes[:3]] == [200, 200, 200]
        refused = [response for response in codes if response.status_code == 429]
        assert refused
        assert int(refused[0].headers["Retry-After"]) >= 1
        time.sleep(0.5)
        assert client.http.get("/v1/items", params={"q": "x"}).status_code == 200


def test_a_body_has_a_size(world_run, tmp_path):
    with served(world_run[1].path, tmp_path, body_mb=0.01, list_mb=0.05) as client:
        large = {"history": ["i1"] * 5000}
        assert client.http.post("/v1/recommend", json=large).status_code == 413

        def stream():
            for _ in range(100):
                yield b" " * 1000

        response = client.http.post(
            "/v1/recommend", content=stream(), headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
        assert client.put_list("long", ["i1"] * 5000).count == 5000
        assert client.http.put("/v1/lists/long", json={"ids": ["i1"] * 50_000}).status_code == 413


def test_another_sites_page_changes_nothing(client):
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert client.http.post("/v1/events", json={"events": [EVENT]}, headers=headers).status_code == 403
    fine = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.http.post("/v1/recommend", json={"n": 1}, headers=fine).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a@localhost", ""]
)
def test_a_name_that_is_not_ours_is_refused_on_loopback(client, host):
    assert client.http.get("/health/live", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_our_own_names_are_fine(client, host):
    assert client.http.get("/health/live", headers={"Host": host}).status_code == 200


def test_what_is_loopback():
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "")] == [False] * 5


def test_no_other_address_is_listened_on_without_a_key(world_run, tmp_path):
    state = f"sqlite:///{tmp_path}/state.sqlite"
    with pytest.raises(ValueError, match="prelude keys"):
        CliRunner().invoke(
            app,
            ["serve", str(world_run[1].path), "--host", "0.0.0.0", "--state", state],
            catch_exceptions=False,
        )


def test_keys_are_made_listed_and_revoked(world_run, tmp_path):
    def call(*words: str):
        return CliRunner().invoke(
            app, ["keys", str(world_run[1].path), *words, "--state", f"sqlite:///{tmp_path}/s.sqlite"]
        )

    made = call("make", "--name", "shop", "--scope", "recommend")
    assert made.output.startswith("prelude_")
    id_ = made.output.split("_")[1]
    assert call("list").output.split()[0] == id_
    assert call("revoke", "--id", id_).exit_code == 0
    assert call("list").output == ""
    assert isinstance(call("revoke", "--id", id_).exception, ValueError)
    assert isinstance(call("make", "--name", "x").exception, ValueError)
    assert isinstance(call("make", "--name", "x", "--scope", "all").exception, ValueError)


def test_a_key_that_is_too_long_to_be_one_is_not_remembered(world_run, tmp_path):
    with served(world_run[1].path, tmp_path) as client:
        state, access_ = service_of(client).state, client.http.app.state.access
        state.write(lambda connection: keys.make_key(connection, "shop", ["recommend"]))
        client.http.headers["X-API-Key"] = "prelude_" + "x" * 60_000
        with pytest.raises(ServiceError, match="401"):
            client.recommend(user_id="u1")
        assert access_._keys == {}


@pytest.mark.parametrize("host", ["[::1", "[localhost]", "a]b"])
def test_a_name_that_is_none_is_refused_as_another_s_is(client, host):
    assert client.http.get("/health/live", headers={"Host": host}).status_code == 421
    sent = {"Origin": f"http://{host}"}
    assert client.http.post("/v1/recommend", json={}, headers=sent).status_code == 403
