"""`make bench-peers`: the split that peers get, the lists that they leave, the evaluator over them, and who is run again."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.config import PrepareConfig
from recsys.data.prepare import prepare
from recsys.data.splits import SplitConfig
from recsys.run import Run
from serving.bench.peers.catalogue import HERE, PEERS, Peer, of_run
from serving.bench.peers.contract import KEPT, LISTS, REPORT, K, Requests, Split, Task, best_of_scores
from serving.bench.peers.driver import Settings, prepared, run_peers
from serving.bench.peers.environments import PeerError, python_of, run_script
from serving.bench.peers.judge import Question, figures, seconds_to
from serving.bench.peers.split import TARGETS, write_split
from serving.bench.peers.table import COLUMNS, markdown

# users in order of time; ann's last two items are of one moment, and so not in each other's history
EVENTS = {
    "ann": [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 4)],
    "bob": [("a", 1), ("c", 2), ("b", 3), ("e", 5)],
    "cleo": [("c", 1), ("a", 2), ("d", 3)],
    "dan": [("a", 6), ("e", 7)],
}
COUNTING = Peer("counts", "Counting", "tests.support.counting_peer", {"": {}}, "nothing")


def run_of_events(folder: Path, **settings) -> Run:
    rows = [f"{user},{item},{100 + time}" for user, events in EVENTS.items() for item, time in events]
    (folder / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    config = PrepareConfig(
        source="files", interactions=folder / "events.csv",
        split=SplitConfig(kind="leave_last_out", personalize_fraction=0.0), **settings,
    )  # fmt: skip
    run = Run.create(folder / "run")
    prepare(config, run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_of_events(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def asked(run, tmp_path_factory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("peers")
    write_split(run, folder, 0, 0)
    return folder, run


def names(run: Run, items) -> list[str]:
    ids = pq.read_table(run.path / "prepare" / "items.parquet")["item_id"].to_pylist()
    return [ids[item] for item in items]


# -- the split -----------------------------------------------------------------------------------------------


def test_peers_get_what_is_before_validation_and_histories_before_the_target(asked):
    folder, run = asked
    split = Split.read(folder / "split")
    users = pq.read_table(run.path / "prepare" / "users.parquet")["user_id"].to_pylist()
    ann, bob, cleo, dan = (users.index(name) for name in ("ann", "bob", "cleo", "dan"))
    learned = {user: names(run, split.items[split.users == user]) for user in (ann, bob, cleo, dan)}
    # dan has two events, too few to hold one out
    assert learned == {ann: ["a", "b", "c"], bob: ["a", "c"], cleo: ["c"], dan: ["a", "e"]}
    assert split.places.tolist() == [n for user in range(4) for n in range(len(learned[user]))]
    histories = {int(user): names(run, split.test.history(row)) for row, user in enumerate(split.test.users)}
    assert histories == {ann: ["a", "b", "c"], bob: ["a", "c", "b"], cleo: ["c", "a"]}
    validation = {
        int(user): (names(run, split.validation.history(row)), names(run, [split.validation_targets[row]])[0])
        for row, user in enumerate(split.validation.users)
    }
    assert validation[bob] == (["a", "c"], "b")
    assert validation[cleo] == (["c"], "a")
    assert validation[ann][0] == ["a", "b", "c"]
    # of ann's two last items one is the test's target, and the other was not before it
    (asked_of_ann,) = names(run, Question.read(folder).targets[split.test.users == ann])
    assert {validation[ann][1], asked_of_ann} == {"d", "e"}


def test_a_test_target_is_in_no_file_that_peers_read(asked):
    folder, _ = asked
    assert pq.read_schema(folder / "split" / "test.parquet").names == ["user", "history"]
    assert not (folder / "split" / TARGETS).exists()
    question, split = Question.read(folder), Split.read(folder / "split")
    pairs = set(zip(split.users.tolist(), split.items.tolist(), strict=True))
    validation = split.validation
    pairs |= {(int(validation.users[row]), int(item)) for row in range(3) for item in validation.history(row)}
    pairs |= set(zip(split.validation.users.tolist(), split.validation_targets.tolist(), strict=True))
    assert not pairs & set(zip(question.requests.users.tolist(), question.targets.tolist(), strict=True))


def test_a_split_has_one_name_and_other_events_another(asked, run, tmp_path):
    name = json.loads((asked[0] / "split" / "split.json").read_text())["name"]
    assert write_split(run, tmp_path, 0, 0) == name
    assert write_split(run, tmp_path, 2, 0) != name
    assert len(Split.read(tmp_path / "split").validation) == 2


def test_a_test_that_would_not_mean_the_same_to_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="may recommend what a user has had"):
        write_split(run_of_events(tmp_path, exclude_seen=False), tmp_path / "out", 0, 0)
    assert not (tmp_path / "out").exists()


def test_beauty_without_its_files_and_no_run_at_all_are_said(tmp_path):
    with pytest.raises(ValueError, match="PRELUDE_DATA"):
        prepared("beauty", tmp_path, None)
    with pytest.raises(Exception, match="there is no run at"):
        prepared(str(tmp_path / "nothing"), tmp_path, None)


# -- what a peer's script is given ---------------------------------------------------------------------------


REQUESTS = Requests(np.array([7, 8, 9]), np.array([1, 2, 3, 4, 5, 6]), np.array([0, 3, 3, 6]))


def test_requests_by_rows_and_parts():
    assert REQUESTS.history(0).tolist() == [1, 2, 3]
    assert REQUESTS.history(1).tolist() == []
    assert REQUESTS.rows.tolist() == [0, 0, 0, 2, 2, 2]
    part = REQUESTS.part(1, 5)
    assert part.users.tolist() == [8, 9]
    assert [part.history(row).tolist() for row in range(2)] == [[], [4, 5, 6]]
    assert [len(some) for some in REQUESTS.parts(2)] == [2, 1]
    items, lengths = REQUESTS.padded(2)
    assert items.tolist() == [[2, 3], [-1, -1], [5, 6]]
    assert lengths.tolist() == [2, 0, 2]


def test_the_best_of_scores_are_in_order_and_set_aside_or_not():
    scores = np.array([[5.0, 4, 3, 2], [1, 2, 3, 4]])
    requests = Requests(np.array([0, 1]), np.array([0, 3, 2]), np.array([0, 1, 3]))
    assert best_of_scores(scores.copy(), requests, False, 2).tolist() == [[0, 1], [3, 2]]
    assert best_of_scores(scores.copy(), requests, True, 2).tolist() == [[1, 2], [1, 0]]
    assert best_of_scores(scores.copy(), requests, True, 9).tolist() == [[1, 2, 3, -1], [1, 0, -1, -1]]


def test_training_ends_by_time_or_for_want_of_a_better_validation():
    task = Task(None, Path(), {"seconds": 100.0, "patience": 2})  # type: ignore[arg-type]
    assert task.stop == ""
    assert [task.validate(n, recall) for n, recall in enumerate([0.1, 0.3, 0.2])] == [True, True, False]
    assert task.stop == ""
    task.validate(3, 0.3)
    assert task.stop == "patience"
    task.clock.cpu = 100.0
    assert task.stop == "time"
    assert seconds_to(task.curve, 0.25) == task.curve[1]
    assert seconds_to(task.curve, 0.31) is None


def test_the_clock_runs_only_while_it_is_asked_to():
    task = Task(None, Path(), {})  # type: ignore[arg-type]
    sum(n * n for n in range(10**5))
    assert (task.clock.wall, task.clock.cpu) == (0, 0)
    with task.clock.running():
        sum(n * n for n in range(10**6))
    assert task.clock.cpu > 0
    assert task.clock.wall > 0


# -- the judge -----------------------------------------------------------------------------------------------


def question(n: int = 3) -> Question:
    requests = Requests(np.arange(n), np.arange(n), np.arange(n + 1))  # user r has had item r
    return Question(requests, np.array([10, 11, 12])[:n], 20)


def test_lists_are_judged_as_by_hand():
    lists = [np.array([10, 0, 5]), np.array([4, 11]), np.array([], int)]
    found = figures(question(), lists, "here")
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["ndcg"] == pytest.approx((1 + 1 / np.log2(3)) / 3)
    assert found["seen_items"] == 1  # item 0, which user 0 has had
    assert found["short_lists"] == 3
    # three users with 1, 1, 0: mean 2/3, sd 1/√3, t of two degrees of freedom at 97.5 % is 4.3027
    half = 4.302653 * (1 / np.sqrt(3)) / np.sqrt(3)
    assert found["recall_interval"] == pytest.approx((2 / 3 - half, 2 / 3 + half), abs=1e-5)


def test_only_the_first_ten_count():
    lists = [np.array([*range(10), 10]), np.arange(2, 12), np.arange(13, 20)]
    assert figures(question(), lists, "here")["recall"] == pytest.approx(1 / 3)


def test_lists_that_cannot_be_are_refused_by_place():
    with pytest.raises(ValueError, match="here holds an item twice in list 1"):
        figures(question(), [np.array([1]), np.array([4, 5, 4]), np.array([1])], "here")
    with pytest.raises(ValueError, match="here holds item 20; there are 20 items"):
        figures(question(), [np.array([1]), np.array([20]), np.array([1])], "here")


# -- the way of a peer ---------------------------------------------------------------------------------------


def one(peers, run: Run, out: Path, **settings) -> list[dict]:
    return list(run_peers(peers, "events", run, out, Settings(threads=1, **settings), lambda line: None))


def test_a_peer_goes_the_whole_way_and_is_not_run_twice(run, tmp_path):
    broken = replace(COUNTING, key="broken", name="Broken", settings={"": {"fails": True}})
    elsewhere = replace(COUNTING, key="elsewhere", settings={"beauty": {}}, source="too long here")
    rows = one([broken, COUNTING, elsewhere], run, tmp_path)
    assert "this peer was told to fail" in rows[0]["failed"]
    assert rows[2]["failed"] == "not run on events: too long here"
    found, folder = rows[1], tmp_path / "events" / "peers" / "counts"
    # counts of training: a 3, c 3 (ann, bob, cleo), b 1, e 1, and d none. Five items fit into a list: with nothing set aside all are hits
    assert found["all"]["recall"] == 1
    # set aside, ann has d and e left, bob d and e, cleo b, e and d
    assert found["set_aside"]["recall"] == 1
    assert found["set_aside"]["seen_items"] == 0
    assert found["asked"]["users"] == 3
    assert found["peak_bytes"] > 10 << 20
    assert found["versions"]["numpy"] == np.__version__
    assert found["curve"][0]["recall"] == 1
    lists = pq.read_table(folder / LISTS)
    assert sorted(len(items) for items in lists["set_aside"].to_pylist()) == [2, 2, 3]

    (folder / "log.txt").write_text("untouched")
    again = one([COUNTING], run, tmp_path)
    assert (folder / "log.txt").read_text() == "untouched"
    assert again == [found]
    one([COUNTING], run, tmp_path, seconds=7.0)  # asked otherwise
    assert (folder / "log.txt").read_text() != "untouched"

    (folder / REPORT).unlink()  # killed before its end
    (folder / "rubbish").write_text("left behind")
    assert one([COUNTING], run, tmp_path, seconds=7.0)[0]["all"] == found["all"]
    assert not (folder / "rubbish").exists()
    table = markdown([rows[0], found], 0.09)
    first, _, failed, counted = table.splitlines()[:4]
    assert len(first.split("|")) == len(failed.split("|")) == len(counted.split("|")) == len(COLUMNS) + 2
    assert "1.0000 (1.0000–1.0000)" in counted
    assert "Broken: no figures: " in table

    pq.write_table(lists.set_column(0, "user", pa.array([5, 6, 7])), folder / LISTS)
    assert "answers other requests" in one([COUNTING], run, tmp_path, seconds=7.0)[0]["failed"]


def test_a_training_that_was_killed_goes_on_if_it_is_asked_the_same_whatever_its_seconds(run, tmp_path):
    dying = replace(COUNTING, key="dying", settings={"": {"dies": True}})
    folder = tmp_path / "events" / "peers" / "dying"
    assert "told to die" in one([dying], run, tmp_path)[0]["failed"]
    first = json.loads((folder / KEPT).read_text())
    assert [row["epochs"] for row in first["curve"]] == [1]
    (folder / "rubbish").write_text("left behind")
    (found,) = one([dying], run, tmp_path, seconds=7.0)
    assert [row["epochs"] for row in found["curve"]] == [1, 2]
    assert found["curve"][0] == first["curve"][0]
    assert found["cpu_seconds"] > first["cpu_seconds"]
    assert {path.name for path in folder.iterdir()} == {"asked.json", "begun.json", "log.txt", LISTS, REPORT}

    # asked otherwise: from the start
    assert "told to die" in one([dying], run, tmp_path, patience=3)[0]["failed"]


def test_a_table_has_what_has_finished_whoever_is_run(run, tmp_path):
    other, said = replace(COUNTING, key="other", name="Other"), list[str]()

    def table(*only: str) -> list[str]:
        asked = run_peers(
            [COUNTING, other], "events", run, tmp_path, Settings(threads=1), said.append, set(only)
        )
        return [row["name"] for row in asked]

    assert table() == []
    assert said == []
    assert table("other") == ["Other"]
    assert table("counts") == ["Counting", "Other"]
    del said[:]
    assert table() == ["Counting", "Other"]
    assert said == []


def test_a_finished_run_of_another_split_is_refused(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    rows = [
        line for line in (run.path.parent / "events.csv").read_text().splitlines() if "cleo,d" not in line
    ]
    (other / "events.csv").write_text("\n".join(rows) + "\n")
    prepare(PrepareConfig(source="files", interactions=other / "events.csv"), Run.create(other / "run"))
    (row,) = one(of_run(other / "run", {"no_context": "No Context"}), run, tmp_path / "out")
    assert "has other events or holds out others" in row["failed"]


def test_scripts_that_end_badly_are_said_with_their_last_word(tmp_path):
    with pytest.raises(PeerError, match=r"ended with 1: .*No module named .*nowhere"):
        run_script(
            python_of(None, tmp_path, print), "serving.bench.peers.nowhere", [], tmp_path / "log", 1, print
        )


@pytest.mark.slow
def test_an_environment_is_made_once_and_what_cannot_be_had_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    pins, said = tmp_path / "some.txt", []
    pins.write_text("# nothing\n")
    python = python_of(pins, tmp_path, said.append)
    assert python.exists()
    assert python_of(pins, tmp_path, said.append) == python
    assert len(said) == 1
    pins.write_text("no-such-package==1.0\n")
    with pytest.raises(PeerError, match=r"some\.txt could not be installed: .*no-such-package"):
        python_of(pins, tmp_path, said.append)


# -- what is committed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_every_peer_has_its_script_and_exact_pins(peer):
    assert (HERE / f"{peer.script}.py").exists()
    if peer.pins is None:
        return
    lines = [line.split("#")[0].strip() for line in peer.pins.read_text().splitlines()]
    pins = [line for line in lines if line]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    assert not any(re.match("nvidia|cuda|triton", pin) for pin in pins)


def test_what_runs_in_peers_environments_imports_nothing_of_prelude_but_the_contract():
    scripts = {
        HERE / "contract.py",
        *(HERE / f"{peer.script}.py" for peer in PEERS.values() if peer.requirements),
    }
    rooms = {"recsys", "semantic_ids", "llm", "evaluation", "serving"}
    for path in scripts:
        nodes = ast.walk(ast.parse(path.read_text()))
        found = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert {name for name in found if name.split(".")[0] in rooms} <= {"serving.bench.peers.contract"}, (
            path
        )
    assert K == 10
