"""`prelude user`: after a deletion nothing of the person is found anywhere, nobody else notices, and no kill splits it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors import safe_open

import serving
from recsys.artifacts.manifest import rehashed
from recsys.artifacts.user_rows import save_user_rows
from recsys.config import StageConfig
from recsys.data.dataset import Dataset
from recsys.embeddings.embed import embed, load_user_vectors
from recsys.run import Run, RunError
from serving.cli import main
from serving.pipeline import run_stage
from serving.stages.names import STAGES
from serving.user_state import delete, export, remake_report, show

PERSON, NUMBER, GONE = "u7", 7, "u39"
MARK = 12345.678  # a value that stands in the person's rows and nowhere else
# of the methods that the small run trains: what each of them keeps of a user
OWN = [
    *(
        f"personalize/{key}-0/00000.safetensors"
        for key in ("oppu_ia3", "oppu_lora", "oppu_lora_pag", "oppu_lora_rag", "oppu_prompt")
    ),
    "personalize/per_pcs-0/users.safetensors",
    "personalize/tap_per-0.safetensors",
]
EXTRA = ("rows", "stream")  # stages of per-user rows, in the forms that methods use


def copy(run: Run, to: Path) -> Run:
    """Hard links: quick, and a deletion that wrote into a file instead of replacing it would spoil `small_run`."""
    shutil.copytree(run.path, to, copy_function=os.link)
    return Run.open(to)


def add_rows_of_users(run: Run, n_users: int) -> None:
    marked = torch.ones(n_users, 2, 3)
    marked[NUMBER] = MARK
    with run.stage("rows", StageConfig(), needs=["prepare"]).writing() as folder:
        (folder / "method").mkdir()
        others = {"projection": torch.full((n_users, 3), 2.0)}
        save_user_rows(folder / "method" / "dense.safetensors", {"prefix": marked}, others=others)
        users = torch.tensor([3, NUMBER, 20])
        save_user_rows(folder / "sparse.safetensors", {"lora": marked[users].bfloat16()}, users)
    with run.stage("stream", StageConfig(), needs=["prepare", "rows"]).writing() as folder:
        rows = {"user": [NUMBER, 3], "item": [1, 2], "time": [5, 6], "weight": [MARK, 1.0]}
        pq.write_table(pa.table(rows), folder / "events.parquet")
        pq.write_table(pa.table({"user_id": ["u3", PERSON], "group": [1, 0]}), folder / "groups.parquet")


@pytest.fixture
def crowded(small_run, tmp_path) -> Run:
    """A copy of the small run with per-user rows, the person as the example, and what killed stages left."""
    config, run = small_run
    run = copy(run, tmp_path / "crowded")
    add_rows_of_users(run, Dataset.load(run).n_users)
    values = config.model_dump(mode="json")
    values["example"]["user"] = PERSON
    run.write_config(values)
    for name in (".partial-adapt/checkpoint", ".old-embed"):
        (run.path / name).mkdir(parents=True)
        shutil.copy(run.path / "rows" / "sparse.safetensors", run.path / name / "checkpoint.safetensors")
    (run.path / ".config.yaml.tmp").write_text(yaml.safe_dump(values))
    return run


def traces(folder: Path) -> list[str]:
    """Every place below `folder` where the id stands as a value, or a row with the person's integer or mark."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, kind = path.relative_to(folder).as_posix(), path.suffix
        if kind == ".parquet":
            frame = pq.ParquetFile(path).read().to_pandas()
            hits = any((frame[column].astype(str) == PERSON).any() for column in frame)
            hits |= any((frame[c] == NUMBER).any() for c in ("user", "users") if c in frame)
            hits |= any((frame[c] == MARK).any() for c in frame if frame[c].dtype == np.float64)
        elif kind == ".safetensors":
            with safe_open(str(path), "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                dense = json.loads((file.metadata() or {}).get("user_rows", "[]"))
            hits = "users" not in tensors and any(bool(tensors[key][NUMBER].any()) for key in dense)
            hits |= "users" in tensors and bool((tensors["users"] == NUMBER).any())
            mark = [torch.tensor(MARK).to(tensor.dtype) for tensor in tensors.values()]
            hits |= any(
                bool((t == m).any())
                for t, m in zip(tensors.values(), mark, strict=True)
                if t.is_floating_point()
            )
        else:
            text = re.sub(r"base64,[^\"]*", "", path.read_text(encoding="utf-8"))
            hits = re.search(rf"\b{PERSON}\b", text) is not None
            if kind == ".json":
                loaded = json.loads(text)
                users = loaded.get("users") if isinstance(loaded, dict) else None
                hits |= isinstance(users, list) and NUMBER in users
        if hits:
            found.append(name)
    return found


def snapshot(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if ".rewrite" not in path.parts
    }


# -- showing and exporting ----------------------------------------------------------------------------------------


def test_show_lists_every_artifact_that_holds_a_row(crowded):
    held = {holding.artifact: holding for holding in show(crowded, PERSON)}
    assert list(held) == [
        "prepare/events.parquet", "prepare/users.parquet", "prepare/queries.parquet", "evaluate/prefixes.json", *OWN,
        "rows/method/dense.safetensors", "rows/sparse.safetensors", "stream/events.parquet", "stream/groups.parquet", "config.yaml",
    ]  # fmt: skip
    assert held["personalize/tap_per-0.safetensors"].facts == {"p_u": "128 values"}
    events = held["prepare/events.parquet"]
    assert events.rows == 24
    assert (events.facts["first"], events.facts["last"]) == (1_000_007, 1_023_007)
    assert events.facts["roles"] == {"fit": 14, "personalize": 6, "validation": 2, "test": 2}
    assert held["prepare/queries.parquet"].facts["query"] == "odd"
    assert held["stream/groups.parquet"].facts == {"group": 0}
    assert held["rows/method/dense.safetensors"].facts == {"prefix": "2 × 3 values"}
    assert traces(crowded.path)  # the scan below would see them


def test_an_export_is_what_the_source_said(crowded, small_run, tmp_path):
    n = export(crowded, PERSON, tmp_path / "u7.json")
    text = (tmp_path / "u7.json").read_text()
    whole = json.loads(text)
    assert whole["user_id"] == PERSON
    assert n == sum(len(rows) for rows in whole["artifacts"].values()) == 24 + 1 + 1 + 1 + len(OWN) + 4 + 1
    source = pd.read_csv(small_run[0].prepare.interactions)
    source = source[source["uid"] == PERSON].sort_values("ts")
    events = whole["artifacts"]["prepare/events.parquet"]
    assert [(row["item_id"], row["time"]) for row in events] == list(
        zip(source["iid"], source["ts"], strict=True)
    )
    assert {row["title"] for row in events} == {f"Title {item[1:]}" for item in source["iid"]}
    assert events[0]["role"] == "fit"
    assert events[-1]["role"] == "test"
    assert whole["artifacts"]["stream/groups.parquet"] == [{"user_id": PERSON, "group": 0}]
    prefix = whole["artifacts"]["rows/method/dense.safetensors"]
    np.testing.assert_array_equal(prefix[0]["prefix"], np.full((2, 3), np.float32(MARK)))
    others = {f"u{user}" for user in range(40)} - {PERSON}
    assert not [user for user in others if f'"{user}"' in text]
    with pytest.raises(ValueError, match=r"u7\.json exists, and is not overwritten"):
        export(crowded, PERSON, tmp_path / "u7.json")
    with pytest.raises(ValueError, match="no folder"):
        export(crowded, PERSON, tmp_path / "nowhere" / "u7.json")
    with pytest.raises(ValueError, match="inside the run"):
        export(crowded, PERSON, crowded.path / "u7.json")


def test_missing_ratings_are_exported_as_null(crowded, tmp_path):
    path = crowded.path / "stream" / "events.parquet"
    table = pa.table({"user": [NUMBER], "rating": pa.array([float("nan")])})
    with crowded.stage("stream", StageConfig(), needs=["rows"]).writing() as folder:
        pq.write_table(table, folder / path.name)
    export(crowded, PERSON, tmp_path / "out.json")
    whole = json.loads((tmp_path / "out.json").read_text())
    assert whole["artifacts"]["stream/events.parquet"] == [{"rating": None}]


@pytest.mark.parametrize("nobody", ["nobody", "", "7"])
def test_an_unknown_id_is_refused_and_nothing_changes(small_run, tmp_path, nobody):
    run = small_run[1]
    before = snapshot(run.path)
    for act in (show, delete, lambda run, user: export(run, user, tmp_path / "out.json")):
        with pytest.raises(ValueError, match=f"user '{nobody}' is unknown to"):
            act(run, nobody)
    assert snapshot(run.path) == before
    assert not (tmp_path / "out.json").exists()


# -- deleting -----------------------------------------------------------------------------------------------------


def test_after_a_deletion_no_file_holds_a_trace(crowded, small_run):
    original = snapshot(small_run[1].path)
    before = Dataset.load(crowded)
    record = delete(crowded, PERSON)
    assert traces(crowded.path) == []
    assert snapshot(small_run[1].path) == original  # files were replaced, none was written into
    assert record["people"] == 1
    assert record["rewritten"] == [
        "config.yaml", "evaluate/prefixes.json", *OWN, "prepare/events.parquet", "prepare/prepare.json", "prepare/queries.parquet",
        "prepare/users.parquet", "rows/method/dense.safetensors", "rows/sparse.safetensors", "stream/events.parquet",
        "stream/groups.parquet",
    ]  # fmt: skip
    assert set(record["removed"]) == {".partial-adapt", ".old-embed", ".config.yaml.tmp", "report.html"}
    assert json.loads((crowded.path / "manifest.json").read_text())["deletions"] == [record]
    assert not (crowded.path / ".rewrite").exists()

    data = Dataset.load(crowded)  # every hash is checked
    others = before.users != NUMBER
    assert data.user_ids.tolist() == [*before.user_ids[:7], "", *before.user_ids[8:]]
    for name in ("users", "items", "times", "weights", "roles"):
        np.testing.assert_array_equal(getattr(data, name), getattr(before, name)[others])
    assert len(data.queries) == len(before.queries) - 1
    report = crowded.read_json("prepare", "prepare.json")
    assert report["counts"] == {
        "events": 39 * 24, "users": 39, "items": 60, "queries": 39, "users_without_test_event": 0
    }  # fmt: skip
    assert report["roles"]["test"] == 39 * 2
    assert report["held_out"]["test"]["users"] == 39
    picture = crowded.read_json("evaluate", "prefixes.json")
    assert len(picture["users"]) == len(picture["prefixes"]) == len(picture["labels"]) == 39


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """What the report's pictures were given of users' vectors; none is drawn, which takes seconds."""
    given: list[dict] = []

    def pictures(results, curves, counts, tsne, more) -> list:
        given.extend([tsne] if tsne else [])
        return []

    monkeypatch.setattr("evaluation.report.report._pictures", pictures)
    return given


def test_the_report_is_drawn_again_and_every_stage_stays_done(crowded, small_run, drawn):
    config = small_run[0]
    delete(crowded, PERSON)
    assert not (crowded.path / "report.html").exists()
    assert remake_report(crowded)
    assert (crowded.path / "report.html").exists()
    assert [len(picture["prefixes"]) for picture in drawn] == [39]
    before = {name: crowded.record(name) for name in (*STAGES, *EXTRA)}
    for name in STAGES:
        run_stage(name, config, crowded)
    assert crowded.stage("rows", StageConfig(), needs=["prepare"]).is_done()
    assert crowded.stage("stream", StageConfig(), needs=["prepare", "rows"]).is_done()
    assert {name: crowded.record(name) for name in (*STAGES, *EXTRA)} == before
    assert traces(crowded.path) == []
    manifest = json.loads((crowded.path / "manifest.json").read_text())
    assert manifest["stages"] == {name: crowded.record(name) for name in manifest["stages"]}


def test_others_are_answered_bit_for_bit_as_before_and_the_deleted_as_a_stranger(crowded):
    methods = ("tap_per", "tap_per_p_q", "e2p", "no_context", "prompt_context", "embedding_retrieval")

    def answers() -> dict:
        recommender = serving.Recommender.load(crowded.path)
        return {
            (user, method): recommender.recommend(user, n=8, method=method, temperature=temperature)
            for user in ("u0", "u6", "u8", "u38")
            for method in methods
            for temperature in (0.0, 1.0)[: 1 if method == "embedding_retrieval" else 2]
        }

    before, end = answers(), Dataset.load(crowded).end
    delete(crowded, PERSON)
    assert Dataset.load(crowded).times.max() + 1 == end
    delete(crowded, GONE)  # whose event was the last of all: the clock does not go back
    assert Dataset.load(crowded).times.max() + 1 < Dataset.load(crowded).end == end
    assert answers() == before
    recommender = serving.Recommender.load(crowded.path)
    stranger = recommender.recommend("nobody", n=5)
    for user in (PERSON, GONE, ""):
        found = recommender.recommend(user, n=5)
        assert found.items == stranger.items
        assert found.path == f"cold start (user {user!r} is unknown to the run): No Context"
    assert [record["people"] for record in crowded.deletions()] == [1, 1]


def test_brought_embeddings_go_and_a_retrained_stage_does_not_take_them_back(small_run, tmp_path):
    config, run = small_run
    other = Run.create(tmp_path / "copy")
    shutil.copytree(run.path / "prepare", other.path / "prepare", copy_function=os.link)
    data = Dataset.load(other)
    rows = [(user, 1_000_000 + 500 * n, [n, 1.0]) for n in range(3) for user in ("u9", PERSON, "", "u3")]
    pd.DataFrame(rows, columns=["user_id", "timestamp", "vector"]).to_parquet(tmp_path / "u.parquet")
    items = [(item_id, [1.0, 0.0]) for item_id in data.catalogue.item_ids]
    pd.DataFrame(items, columns=["item_id", "vector"]).to_parquet(tmp_path / "i.parquet")
    paths = {"user_embeddings": tmp_path / "u.parquet", "item_embeddings": tmp_path / "i.parquet"}
    brought = config.embed.model_copy(update={**paths, "leak_margin": 100.0})
    embed(brought, other)
    held = {holding.artifact: holding for holding in show(other, PERSON)}
    facts = held["embed/brought_users.safetensors"].facts
    assert facts == {"first": 1_000_000, "last": 1_001_000, "vectors": "2 values"}

    delete(other, PERSON)
    users = load_user_vectors(other)
    assert users.users.tolist() == [3, 3, 3, 9, 9, 9]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(users.values[3:], [[n, 1.0] for n in range(3)])  # type: ignore[attr-defined]
    shutil.rmtree(other.path / "embed")
    embed(brought, other)  # the file still has the person, and rows of an empty id
    assert sorted(set(load_user_vectors(other).users.tolist())) == [3, 9]  # type: ignore[attr-defined]
    assert other.deletions()


def test_training_again_without_the_person_works_and_preparing_again_is_refused(crowded, small_run):
    config = small_run[0]
    delete(crowded, PERSON)
    shutil.rmtree(crowded.path / "embed")
    run_stage("embed", config, crowded)
    vectors = crowded.read_json("embed", "embed.json")
    assert vectors["users"] == "history"
    changed = config.model_copy(update={"prepare": config.prepare.model_copy(update={"k_core_users": 2})})
    before = snapshot(crowded.path)
    with pytest.raises(RunError, match="preparing again would bring back whoever is still in the source"):
        run_stage("prepare", changed, crowded)
    assert snapshot(crowded.path) == before
    shutil.rmtree(crowded.path / "prepare")
    with pytest.raises(RunError, match="prepare a new run directory"):
        run_stage("prepare", config, crowded)


def test_a_stage_that_was_out_of_date_stays_so(small_run, tmp_path):
    run = copy(small_run[1], tmp_path / "copy")
    entry = run.record("personalize")
    assert entry is not None
    stale = entry | {
        "made_from": entry["made_from"] | {"stages": entry["made_from"]["stages"] | {"prepare": "x"}}
    }
    records = {name: run.record(name) for name in STAGES} | {"personalize": stale}
    after = rehashed(records, {"prepare": {"users.parquet": "new"}})  # type: ignore[arg-type]
    assert after["personalize"]["made_from"] == stale["made_from"]
    assert after["personalize"]["fingerprint"] == stale["fingerprint"]
    assert (
        after["embed"]["made_from"]["stages"]["prepare"] != records["embed"]["made_from"]["stages"]["prepare"]
    )  # type: ignore[index]
    assert after["prepare"]["fingerprint"] == records["prepare"]["fingerprint"]  # type: ignore[index]


def test_a_picture_that_does_not_say_whose_vectors_it_has_goes_whole(small_run, tmp_path, drawn):
    """Runs of the first release."""
    run = copy(small_run[1], tmp_path / "copy")
    picture = run.read_json("evaluate", "prefixes.json")
    kept = {name: (run.path / "evaluate" / name).read_text() for name in ("results.json", "costs.json")}
    del picture["users"]
    with run.stage("evaluate", StageConfig(), needs=STAGES[:-1]).writing() as folder:
        (folder / "prefixes.json").write_text(json.dumps(picture))
        for name, text in kept.items():
            (folder / name).write_text(text)
    delete(run, PERSON)
    assert run.read_json("evaluate", "prefixes.json") is None
    assert remake_report(run)
    assert drawn == []


def test_a_damaged_artifact_stops_a_deletion_before_it_begins(crowded):
    path = crowded.path / "rows" / "sparse.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + b"\x01")
    before = snapshot(crowded.path)
    with pytest.raises(RunError, match=r"sparse\.safetensors does not match its hash"):
        delete(Run.open(crowded.path), PERSON)
    assert snapshot(crowded.path) == before


# -- kills --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


class Killer:
    """An audit hook that stops the process before its n-th change of the file system."""

    def __init__(self) -> None:
        self.left: int | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.left is None:
            return
        writes = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed(event)


KILLER = Killer()


def test_a_kill_before_any_step_leaves_the_run_as_it_was_or_completable(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.user_state.time", SimpleNamespace(time=lambda: 1e9))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # for power failures, not for kills; slow
    template = copy(small_run[1], tmp_path / "template")
    for name in ("tokenize", "adapt", "personalize"):  # nothing of users: quicker without
        shutil.rmtree(template.path / name)
    template.write_config({"example": {"user": PERSON, "n": 5}})
    add_rows_of_users(template, 40)
    (template.path / ".partial-embed" / "checkpoint").mkdir(parents=True)
    (template.path / ".partial-embed" / "checkpoint" / "c.json").write_text(f'["{PERSON}"]')
    whole = copy(template, tmp_path / "whole")
    delete(whole, PERSON)
    before, after = snapshot(template.path), snapshot(whole.path)
    assert traces(whole.path) == []

    outcomes = []
    for step in range(1000):
        run = copy(template, tmp_path / f"killed-{step}")
        KILLER.left = step
        try:
            delete(run, PERSON)
        except Killed:
            pass
        else:
            break
        finally:
            KILLER.left = None
        opened = Run.open(run.path)  # what any command does first
        state = snapshot(run.path)
        assert state in (before, after), step
        outcomes.append(state == after)
        if state == before:
            if step % 4 == 0:  # what was staged is in nobody's way
                delete(opened, PERSON)
                assert snapshot(run.path) == after, step
        else:
            with opened.lock():  # what any command that writes does next
                assert not (run.path / ".rewrite").exists()
        shutil.rmtree(run.path)
    assert outcomes == sorted(outcomes)  # one moment of commit: before it nothing, after it all
    assert outcomes.count(False) > 10
    assert outcomes.count(True) > 10


def test_a_deletion_waits_for_no_one_and_completes_a_killed_commit(small_run, tmp_path):
    run = copy(small_run[1], tmp_path / "copy")
    with run.lock(), pytest.raises(RunError, match="another prelude process"):
        delete(Run.open(run.path), PERSON)
    os.rename(run.path / "evaluate", run.path / ".partial-evaluate")  # killed between record and rename
    delete(run, PERSON)
    assert traces(run.path) == []
    assert len(run.read_json("evaluate", "prefixes.json")["users"]) == 39


# -- the command line ---------------------------------------------------------------------------------------------


def prelude(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["prelude", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def test_the_command_shows_exports_asks_and_deletes(crowded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("serving.user_state.remake_report", lambda run: True)
    arguments = ("user", crowded.path, "--id", PERSON)
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "show", "--json")
    assert code == 0
    assert json.loads(out)[0]["rows"] == 24
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "show")
    assert "1970-01-12 13:46:47 UTC" in out
    assert "2 test" in out
    code, _, error = prelude(monkeypatch, capsys, *arguments, "export")
    assert (code, "export needs --out FILE" in error) == (2, True)
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "export", "--out", tmp_path / "out.json")
    assert (code, f"{32 + len(OWN)} rows" in out) == (0, True)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 (nobody answers)
    before = snapshot(crowded.path)
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "delete")
    assert code != 0
    assert snapshot(crowded.path) == before
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "delete", "--yes")
    assert code == 0
    assert "prepare/events.parquet" in out
    assert "source files" in out
    code, _, error = prelude(monkeypatch, capsys, *arguments, "delete", "--yes")
    assert (code, f"user '{PERSON}' is unknown" in error) == (2, True)
    assert traces(crowded.path) == []


def test_feedback_absorbed_later_goes_too_and_the_others_keep_theirs(small_run, tmp_path):
    """`prelude update` keeps a journal beside the stages: the person's events and row of P_u leave it, the rest stays whole."""
    run = copy(small_run[1], tmp_path / "copy")
    now = Dataset.load(run).end
    service = serving.Recommender.load(run.path)
    service.update([(PERSON, "i3", now + 1), ("u3", "i5", now + 2)])
    before = service.recommend("u3", n=8, method="tap_per")
    assert {holding.artifact for holding in show(run, PERSON)} > {
        "live/events-000001.parquet",
        "live/states-000001.safetensors",
    }
    delete(run, PERSON)
    assert traces(run.path) == []
    again = serving.Recommender.load(run.path)
    assert again.recommend("u3", n=8, method="tap_per") == before
    assert again.recommend(PERSON, n=5).path.startswith("cold start")


def test_somebody_who_came_after_the_run_was_made_can_be_forgotten_too(small_run, tmp_path):
    run = copy(small_run[1], tmp_path / "copy")
    now = Dataset.load(run).end
    serving.Recommender.load(run.path).update([("newcomer", "i3", now + 1), ("u3", "i5", now + 2)])
    assert {holding.artifact for holding in show(run, "newcomer")} == {
        "live/events-000001.parquet",
        "live/states-000001.safetensors",
    }
    before = serving.Recommender.load(run.path).recommend("u3", n=8, method="tap_per")
    delete(run, "newcomer")
    assert "newcomer" not in pq.read_table(run.path / "live" / "events-000001.parquet")["user_id"].to_pylist()
    assert serving.Recommender.load(run.path).recommend("u3", n=8, method="tap_per") == before
    with pytest.raises(ValueError, match="user 'newcomer' is unknown to"):
        show(run, "newcomer")
