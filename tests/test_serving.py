"""What a service and a person at a terminal see: recommendations, cold starts, errors that name the place."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

import serving
from serving.cli import main
from serving.config.run import RunConfig, load_config


@pytest.fixture(scope="module")
def recommender(small_run):
    return serving.Recommender.load(small_run[1].path)


def test_titles_and_scores_come_back_best_first(recommender):
    found = recommender.recommend("u0", n=5)
    assert (found.method, found.path) == ("E2P", "personalized")
    assert len(found) == len({item.item_id for item in found}) == 5
    assert all(item.title == f"Title {item.item_id[1:]}" for item in found)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_a_query_changes_the_prompt_and_the_same_call_the_same_list(recommender):
    plain = recommender.recommend("u0", n=10)
    asked = recommender.recommend("u0", "odd", n=10)
    assert recommender.recommend("u0", n=10) == plain
    assert [item.score for item in asked] != [item.score for item in plain]


def test_draws_without_replacement_depend_on_the_seed(recommender):
    lists = [
        [i.item_id for i in recommender.recommend("u3", n=8, temperature=1.0, seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert lists[0] == lists[1] != lists[2]
    assert len(set(lists[0])) == 8


def test_cold_starts_say_so(recommender):
    stranger = recommender.recommend("nobody", n=3)
    assert len(stranger) == 3
    assert "cold start (user 'nobody' is unknown" in stranger.path
    assert "No Context" in stranger.path
    early = recommender.recommend("u0", n=3, time=0)
    assert "no usable event before" in early.path
    assert [i.item_id for i in early] == [i.item_id for i in stranger]
    assert "popularity" in recommender.recommend("nobody", n=3, method="embedding_retrieval").path
    warm = recommender.recommend("nobody", n=3, history=["i0", "i2", "i4"])
    assert warm.path == "personalized"


def test_exclusions_hold_and_more_than_there_is_gives_what_there_is(recommender):
    everything = recommender.recommend("u0", n=1000, exclude_seen=False)
    assert len(everything) == 60
    first = everything[0].item_id
    assert first not in [
        i.item_id for i in recommender.recommend("u0", n=1000, exclude=[first], exclude_seen=False)
    ]
    seen = recommender.recommend("u0", n=1000, exclude_seen=True)
    assert len(seen) < 60


@pytest.mark.parametrize("query", ["", "   ", "x" * 10_000, "лёгкая комедия 軽い 🎬", "a\x00b\n\nc"])
def test_any_query_is_answered(recommender, query):
    assert len(recommender.recommend("u1", query, n=4)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least one"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"method": "magic"}, "no method 'magic'; it has popularity"),
        ({"exclude": "zzz"}, "zzz"),
    ],
)
def test_callers_mistakes_are_named(recommender, arguments, message):
    with pytest.raises((ValueError, KeyError), match=message):
        recommender.recommend("u0", **arguments)


def test_the_module_level_call(small_run):
    assert len(serving.recommend("u0", n=2, run=str(small_run[1].path))) == 2


# -- the command line -------------------------------------------------------------------------------------------


def prelude(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["prelude", *map(str, arguments)])
    code: int | str | None = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return int(code or 0), out.out, out.err


def test_recommend_prints_json_and_a_table(small_run, monkeypatch, capsys):
    path = small_run[1].path
    code, out, _ = prelude(
        monkeypatch, capsys, "recommend", path, "--user", "u4", "--query", "even", "-n", 3, "--json"
    )
    assert code == 0
    assert len(json.loads(out)["items"]) == 3
    code, out, _ = prelude(monkeypatch, capsys, "recommend", path, "--user", "u4", "-n", 3)
    assert code == 0
    assert "Title" in out


def test_broken_and_unknown_runs_are_refused_by_name(small_run, tmp_path, monkeypatch, capsys):
    code, _, err = prelude(monkeypatch, capsys, "recommend", tmp_path / "nope", "--user", "u4")
    assert code == 2
    assert "there is no run at" in err
    broken = tmp_path / "broken"
    shutil.copytree(small_run[1].path, broken)
    with open(broken / "adapt" / "sid_rows.safetensors", "r+b") as file:
        file.seek(500)
        file.write(b"xx")
    code, _, err = prelude(monkeypatch, capsys, "recommend", broken, "--user", "u4")
    assert code == 2
    assert "sid_rows.safetensors does not match its hash" in err
    assert "Traceback" not in err


def test_inspect_and_status(small_run, monkeypatch, capsys):
    for command in ("inspect", "status"):
        code, out, _ = prelude(monkeypatch, capsys, command, small_run[1].path)
        assert code == 0
        assert out.strip()


def test_prepare_takes_other_column_names_and_names_bad_lines(tmp_path, monkeypatch, capsys):
    from tests.conftest import two_tastes

    events, items, _ = two_tastes(tmp_path)
    columns = ["--column", "user_id=uid", "--column", "item_id=iid", "--column", "timestamp=ts",
               "--column", "items.item_id=item_id"]  # fmt: skip
    code, _, err = prelude(
        monkeypatch, capsys, "prepare", tmp_path / "r", "--interactions", events, "--items", items, *columns
    )
    assert code == 0, err
    bad = tmp_path / "bad.csv"
    bad.write_text(events.read_text() + "u1,i1,yesterday\n")
    code, _, err = prelude(
        monkeypatch, capsys, "prepare", tmp_path / "s", "--interactions", bad, *columns[:-2]
    )
    assert code == 2
    assert "bad.csv:962" in err
    assert "yesterday" in err


def test_a_stage_out_of_order_says_what_it_needs(tmp_path, monkeypatch, capsys):
    code, _, err = prelude(monkeypatch, capsys, "adapt", tmp_path / "r")
    assert code == 2
    assert "needs stage 'prepare'" in err


def test_unknown_keys_wrong_types_and_bad_changes_are_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("adapt: {stepz: 5}")
    with pytest.raises(ValueError, match=r"adapt\.stepz"):
        load_config(path)
    with pytest.raises(ValueError, match=r"adapt\.steps.*'many'"):
        load_config(None, ["adapt.steps=many"])
    with pytest.raises(ValueError, match=r"stage\.key=value"):
        load_config(None, ["adapt.steps"])
    with pytest.raises(ValueError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")


def test_one_seed_reaches_every_stage_and_the_written_config_is_the_same_config(tmp_path):
    config = load_config(None, ["seed=7", "embed.seed=3"])
    assert (config.adapt.seed, config.tokenize.seed, config.evaluate.seed, config.embed.seed) == (7, 7, 7, 3)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
