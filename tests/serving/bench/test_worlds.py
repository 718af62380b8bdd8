"""Made worlds: the events follow the probabilities that the truth says, and no size of a block changes a byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from serving.bench.worlds import __main__ as command
from serving.bench.worlds.planted import Settings, World
from serving.bench.worlds.write import write_world

SMALL = Settings(users=30, items=60, events=3000, clusters=6, flat=3.0, seed=5)


def bytes_below(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_bytes_whatever_the_block(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c", "other")]
    for folder, block in zip(folders[:3], (7, 500, 10_000), strict=True):
        write_world(SMALL, folder, text=True, queries=100, part=900, block=block, quiet=True)
    write_world(
        Settings(users=30, items=60, events=3000, clusters=6, seed=6),
        folders[3],
        queries=100,
        part=900,
        quiet=True,
    )
    made, *others = (bytes_below(folder) for folder in folders)
    assert len([name for name in made if name.startswith("interactions/")]) == 4
    assert made == others[0] == others[1]
    assert others[2]["interactions/part-00000.parquet"] != made["interactions/part-00000.parquet"]


@pytest.fixture(scope="module")
def drawn():
    """The small world, its events, the true p of every item at each of them [E, I], and what each user had before."""
    world = World(SMALL)
    events = world.events(0, SMALL.events, world.nothing_yet())
    before, last = [], dict[int, int]()
    for user, item in zip(events.users.tolist(), events.items.tolist(), strict=True):
        before.append(last.get(user))
        last[user] = item
    true = [
        world.next_item(int(user), int(time), was)
        for user, time, was in zip(events.users, events.times, before, strict=True)
    ]
    return world, events, np.array(true), before


def test_the_truth_is_a_distribution(drawn):
    _, _, true, _ = drawn
    np.testing.assert_allclose(true.sum(1), 1.0, rtol=1e-12)
    assert true.min() > 0


def test_what_is_drawn_follows_the_truth(drawn):
    """By item, early and late, and by rank of probability: counts lie within what chance allows (a z of 4.5 of some 200)."""
    _, events, true, _ = drawn
    early = events.times < np.median(events.times)
    had = np.eye(true.shape[1])[events.items]
    ranked = np.argsort(-true, axis=1)
    groups = [(true[some], had[some]) for some in (early, ~early)]
    groups.append((np.take_along_axis(true, ranked, 1), np.take_along_axis(had, ranked, 1)))
    for expected, found in groups:
        deviation = np.sqrt((expected * (1 - expected)).sum(0))
        assert np.abs((found.sum(0) - expected.sum(0)) / deviation).max() < 4.5


def test_people_walk_on(drawn):
    world, events, _, before = drawn
    known = np.array([was is not None for was in before])
    came = world.successor(np.array([was for was in before if was is not None])) == events.items[known]
    assert came.mean() == pytest.approx(SMALL.follow, abs=0.06)  # and a few by chance


def test_the_folder_says_what_the_world_is(tmp_path):
    made = write_world(SMALL, tmp_path / "w", part=25, quiet=True)
    opened = World.open(tmp_path / "w")
    assert opened.settings == made.settings
    items = pq.read_table(tmp_path / "w/truth/items").to_pydict()
    numbers = np.arange(SMALL.items)
    assert items["item_id"] == [f"i{number}" for number in numbers]
    assert items["cluster"] == made.clusters_of(numbers).tolist()
    assert sorted(np.bincount(items["cluster"]).tolist()) == [10] * 6
    events = pq.read_table(tmp_path / "w/interactions").to_pydict()
    assert (np.diff(events["timestamp"]) >= 0).all()
    genres = pq.read_table(tmp_path / "w/items")["genres"].to_pylist()
    assert len(set(genres)) == 6, "a cluster has one name"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--users", "1"], "users is 1; at least 2"),
        (["--items", "ten"], "'ten' is no whole number"),
        (["--clusters", "99"], "clusters is 99, and there are 60 items"),
        (["--follow", "1.5"], "follow is 1.5; it is a share"),
        (["--queries", "1e9"], "queries is 1000000000; of 3,000 events"),
        (["--out", "there"], "is there and not an empty folder"),
    ],
)
def test_mistakes_are_said_and_leave_nothing(tmp_path, given, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    options = {"--users": "30", "--items": "60", "--events": "3e3", "--out": "new"}
    options |= dict([given])
    app = typer.Typer()
    app.command()(command.main)
    found = CliRunner().invoke(app, [word for pair in options.items() for word in pair])
    assert found.exit_code == 2
    assert said in " ".join(found.output.replace("│", " ").split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
