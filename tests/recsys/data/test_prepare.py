"""The prepare stage end to end, against slow plain references."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.artifacts.paths import RunError
from recsys.data import filters
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.interactions import Interactions
from recsys.data.prepare import prepare
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.door.tables import DataError
from recsys.run import Run
from recsys.seeds import rng


def rows(
    seed: int = 0, n: int = 200, users: int = 6, items: int = 12, span: int = 40
) -> list[tuple[str, str, int]]:
    """Distinct events with many ties in time and many repeated items, in no order."""
    generator = rng(seed, "rows")
    drawn = [generator.integers(0, limit, n) for limit in (users, items, span)]
    return list(dict.fromkeys((f"u{u}", f"i{i}", int(t)) for u, i, t in zip(*drawn, strict=True)))


def prepared(folder: Path, events: list[tuple[str, str, int]], **settings) -> tuple[Dataset, dict]:
    """Run the stage on a CSV of these events, and read back what it left."""
    folder.mkdir(exist_ok=True)
    path = folder / "interactions.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events))
    run = Run.create(folder / "run")
    prepare(PrepareConfig(source="files", interactions=path, **settings), run)
    run = Run.open(folder / "run")
    return Dataset.load(run), run.read_json("prepare", "prepare.json")


@pytest.fixture(scope="module")
def movielens(tmp_path_factory) -> tuple[Dataset, dict]:
    run = Run.create(tmp_path_factory.mktemp("ml") / "run")
    prepare(PrepareConfig(), run)
    return Dataset.load(run), run.read_json("prepare", "prepare.json")


def test_movielens_gives_the_numbers_of_the_sketch(movielens):
    dataset, report = movielens
    assert (dataset.n_users, dataset.n_items) == (610, 3_650)
    assert dataset.user_ids[41] == "42"
    assert dataset.user_index("42") == 41
    assert dataset.user_index("0") is None
    assert report["dropped_rows"] == {"k_core": 100_836 - len(dataset.users)}
    assert report["roles"]["test"] == len(dataset.events(TEST))
    tags = dataset.queries[dataset.queries["query"] == "Highly quotable"]
    assert dataset.catalogue.titles[tags["item"].iloc[0]] == "Step Brothers (2008)"
    assert dataset.user_ids[tags["user"].iloc[0]] == "2"


def test_every_row_arrives_in_order(tmp_path):
    events = rows()
    dataset, _ = prepared(tmp_path, events)
    arrived = [
        (dataset.user_ids[u], dataset.catalogue.item_ids[i], int(t))
        for u, i, t in zip(dataset.users, dataset.items, dataset.times, strict=True)
    ]
    assert sorted(arrived) == sorted(events)
    moments = [(user, time) for user, _, time in arrived]
    assert moments == sorted(moments)  # users by name
    again, _ = prepared(
        tmp_path / "shuffled", rng(1, "shuffle").permutation(np.array(events, object)).tolist()
    )
    for name in ("users", "items", "times", "roles"):  # ties too: the file's order says nothing
        np.testing.assert_array_equal(getattr(again, name), getattr(dataset, name))
    for user in range(dataset.n_users):
        assert set(dataset.users[dataset.offsets[user] : dataset.offsets[user + 1]]) == {user}


def test_history_is_what_is_strictly_earlier(tmp_path):
    """Against a plain filter of the rows, with ties in time all over."""
    dataset, _ = prepared(tmp_path, rows(seed=1))
    everything = list(zip(dataset.users, dataset.times, dataset.items, strict=True))
    assert len({(u, t) for u, t, _ in everything}) < len(everything)  # there are ties
    for event, (user, time, item) in enumerate(everything):
        earlier = [(i, t) for u, t, i in everything if u == user and t < time]
        request = dataset.request(event, exclude_seen=True)
        assert list(zip(request.history, request.history_times, strict=True)) == earlier
        items, times = dataset.before(user, time)
        assert list(zip(items, times, strict=True)) == earlier
        assert set(request.exclude) == {i for i, _ in earlier} - {item}
        assert (request.request_id, request.user, request.time) == (f"e{event}", user, time)
    assert dataset.request(len(everything) - 1, exclude_seen=False).exclude.size == 0


def test_nothing_at_or_after_the_moment_changes_a_request(tmp_path):
    """A planted answer: rewriting every event from a moment on leaves what is known before it as it was."""
    events = rows(seed=2)
    planted = [(u, "i0" if t >= 25 else i, t) for u, i, t in events]
    (one, _), (two, _) = prepared(tmp_path / "a", events), prepared(tmp_path / "b", planted)
    for user_id, time in itertools.product(one.user_ids, range(26)):
        seen = []
        for dataset in (one, two):
            items, times = dataset.before(dataset.user_index(user_id), time)
            seen.append([(dataset.catalogue.item_ids[i], t) for i, t in zip(items, times, strict=True)])
        assert seen[0] == seen[1]


def test_held_out_facts_by_hand(tmp_path):
    first = [("a", "x", 1), ("a", "y", 2), ("a", "z", 3), ("a", "y", 4), ("a", "x", 4)]  # y, x: seen, tied
    second = [("b", "x", 7), ("b", "y", 7), ("b", "z", 7)]  # no history at all
    dataset, report = prepared(tmp_path, first + second, split={"kind": "leave_last_out"})
    assert report["held_out"]["test"] == {
        "events": 2,
        "users": 2,
        "already_in_history": 1,
        "without_history": 1,
        "tied_in_time": 2,
        "tied_share": 1.0,
    }
    assert dataset.roles.tolist() == [FIT, FIT, PERSONALIZE, VALIDATION, TEST, FIT, VALIDATION, TEST]


def test_users_without_a_test_event_are_counted(tmp_path):
    events = [("a", "x", 1), ("a", "y", 2), ("a", "z", 3), ("b", "x", 1), ("b", "y", 2)]
    _, report = prepared(tmp_path, events, split={"kind": "leave_last_out"})
    assert report["counts"]["users_without_test_event"] == 1
    assert [w["count"] for w in report["warnings"] if w["reason"] == "users_without_test_event"] == [1]


# -- filters -------------------------------------------------------------------------------------------------


def slow_core(events: list[tuple[str, str, int]], users: int, items: int) -> list[tuple[str, str, int]]:
    """Drop one offender at a time, in any order."""
    while True:
        for column, least in ((0, users), (1, items)):
            names = {row[column] for row in events}
            offender = next(
                (n for n in sorted(names) if len({r[1 - column] for r in events if r[column] == n}) < least),
                None,
            )
            if offender is not None:
                events = [row for row in events if row[column] != offender]
                break
        else:
            return events


@pytest.mark.parametrize(("users", "items"), [(0, 3), (3, 0), (3, 3), (4, 4), (9, 9)])
def test_k_core_against_a_slow_one(users, items):
    for seed in range(8):
        events = rows(seed, n=60, users=12, items=14)
        frame = pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"])
        core = filters.k_core(Interactions(frame, str), users, items)
        assert list(core.frame.itertuples(index=False, name=None)) == slow_core(events, users, items)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("keep", [0, 1, 2, 3, 4]), ("first", [1, 2, 3]), ("last", [0, 2, 4])],
)
def test_repeats(policy, expected):
    frame = pd.DataFrame(
        {"user_id": list("aaaab"), "item_id": list("xxyzx"), "timestamp": [9, 1, 5, 5, 2]},
    )
    frame = pd.concat(
        [frame[:3], pd.DataFrame({"user_id": ["b", "b"], "item_id": ["x", "x"], "timestamp": [3, 4]})]
    )
    frame = frame.reset_index(drop=True)
    assert filters.keep_repeats(Interactions(frame, str), policy).frame.index.to_list() == expected


def write_files(folder: Path) -> dict[str, Path]:
    events = "user,item,when,stars,what\n" + "".join(
        f"{u},{i},{t},{t % 5 + 1},{'play' if t % 2 else 'skip'}\n" for u, i, t in rows(3)
    )
    (folder / "interactions.csv").write_text(events)
    (folder / "items.csv").write_text("item,name,genre\ni0,Zero,A|B\ni1,One,\ni99,Never,C\n")
    (folder / "queries.csv").write_text(
        "user,item,when,words\nu0,i1,5,something light\nnobody,i0,6,dark\nu1,i77,6,gone\n"
    )
    return {name: folder / f"{name}.csv" for name in ("interactions", "items", "queries")}


COLUMNS = {
    "user_id": "user",
    "item_id": "item",
    "timestamp": "when",
    "rating": "stars",
    "event": "what",
    "title": "name",
    "query": "words",
    "genres": "genre",
}


def test_files_of_ones_own(tmp_path, capsys):
    run = Run.create(tmp_path / "run")
    config = PrepareConfig(
        source="files",
        **write_files(tmp_path),
        columns=COLUMNS,
        text_columns=["genres"],
        min_known_items=0.1,
        min_known_queries=0.3,
    )
    prepare(config, run)
    dataset, report = Dataset.load(run), run.read_json("prepare", "prepare.json")
    assert dataset.catalogue.titles[:3] == ["Zero", "One", dataset.catalogue.item_ids[2]]
    assert dataset.catalogue.item_ids[-1] == "i99"  # nobody has touched it, and it stays
    assert report["card"]["items_without_events"] == 1
    assert dataset.catalogue.columns["genres"][:3] == [["A", "B"], [], []]
    assert dataset.queries.to_numpy().tolist() == [
        [dataset.user_index("u0"), 1, 5, "something light"],
        [-1, 0, 6, "dark"],
    ]
    warned = {warning["reason"]: warning["count"] for warning in report["warnings"]}
    assert warned["unknown_items_kept"] == 10
    assert warned["queries_for_unknown_items"] == 1
    np.testing.assert_array_equal(dataset.ratings, dataset.times % 5 + 1)
    assert set(dataset.kinds) == {"play", "skip"}
    assert set(report["files"]) == {"interactions", "items", "queries"}
    assert "prepare: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"min_rating": 3}, lambda u, i, t: t % 5 + 1 >= 3),
        ({"keep_events": ["play"]}, lambda u, i, t: t % 2),
        ({"unknown_items": "drop"}, lambda u, i, t: i in ("i0", "i1")),
    ],
)
def test_filters_keep_what_they_should(tmp_path, settings, kept):
    run = Run.create(tmp_path / "run")
    settings = {"split": {"kind": "leave_last_out"}, "min_known_items": 0, "min_known_queries": 0, **settings}
    prepare(
        PrepareConfig(
            source="files",
            **write_files(tmp_path),
            columns={key: name for key, name in COLUMNS.items() if key != "genres"},
            **settings,
        ),
        run,
    )
    dataset = Dataset.load(run)
    expected = sum(bool(kept(*row)) for row in rows(3))
    assert len(dataset.users) == expected
    assert sum(run.read_json("prepare", "prepare.json")["dropped_rows"].values()) == len(rows(3)) - expected


@pytest.mark.parametrize(
    ("events", "settings", "problem"),
    [
        ([("a", "x", 1), ("a", "y", 2), ("a", "z", 3)], {}, "one user"),
        ([("a", "x", 1), ("b", "x", 2)], {}, "one item"),
        ([("a", "x", 1), ("b", "y", 2)], {}, "leaves none to test on"),
        (rows(), {"k_core_users": 100}, "k_core leaves 0 user"),
        (rows(), {"min_rating": 3}, "no rating column"),
        (rows(), {"keep_events": ["play"]}, "no event column"),
        (
            rows(),
            {"split": {"kind": "global_time", "cutoff_validation_unix_s": 0, "cutoff_test_unix_s": 5}},
            "learn from",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path, events, settings, problem):
    with pytest.raises(DataError, match=problem):
        prepared(tmp_path, events, **settings)
    assert not (tmp_path / "run" / "prepare").exists()


def test_unknown_items_can_be_an_error(tmp_path):
    columns = {key: name for key, name in COLUMNS.items() if key != "genres"}
    config = PrepareConfig(source="files", **write_files(tmp_path), columns=columns, unknown_items="error")
    with pytest.raises(DataError, match=r"interactions.csv:\d+: item 'i\d+' is not in the items file"):
        prepare(config, Run.create(tmp_path / "run"))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.csv does not exist"):
        prepare(
            PrepareConfig(source="files", interactions=tmp_path / "none.csv"), Run.create(tmp_path / "run")
        )
    with pytest.raises(DataError, match="is a directory"):
        prepare(PrepareConfig(source="files", interactions=tmp_path), Run.create(tmp_path / "run"))


# -- the run directory ---------------------------------------------------------------------------------------


def test_done_once_and_again_only_when_something_changed(tmp_path, capsys):
    prepared(tmp_path, rows())
    stage = tmp_path / "run" / "prepare" / "stage.json"
    first = stage.read_text()
    capsys.readouterr()
    prepared(tmp_path, rows())
    assert stage.read_text() == first
    assert "up to date" in capsys.readouterr().out
    dataset, _ = prepared(tmp_path, [*rows(), ("new", "i0", 99)])
    assert dataset.user_index("new") is not None
    dataset, _ = prepared(tmp_path, rows(), k_core_items=2)
    assert stage.read_text() != first


def test_the_same_input_gives_the_same_bytes(tmp_path):
    hashes = []
    for name in "ab":
        prepared(tmp_path / name, rows())
        artifacts = Run.open(tmp_path / name / "run").record("prepare")["artifacts"]
        hashes.append({file: digest for file, digest in artifacts.items() if file.endswith(".parquet")})
    assert set(hashes[0]) == {"events.parquet", "items.parquet", "queries.parquet", "users.parquet"}
    assert hashes[0] == hashes[1]


def test_a_damaged_artifact_is_refused_by_name(tmp_path):
    prepared(tmp_path, rows())
    path = tmp_path / "run" / "prepare" / "events.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"events.parquet does not match its hash"):
        Dataset.load(Run.open(tmp_path / "run"))


def test_arrays_can_be_written_to(tmp_path):
    """torch.from_numpy warns about read-only arrays, which is what Parquet gives."""
    dataset, _ = prepared(tmp_path, rows())
    assert all(
        getattr(dataset, name).flags.writeable for name in ("users", "items", "times", "weights", "roles")
    )
