"""From rows to a data set: the cap on one user's share of training, and ties that do not depend on the file's order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.data.build import EVEN_SHARES
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.splits import FIT, PERSONALIZE, UNUSED
from recsys.run import Run
from recsys.seeds import rng

Rows = list[tuple[str, str, int]]


def written(folder: Path, rows: Rows, **settings) -> tuple[Dataset, list[dict]]:
    folder.mkdir(exist_ok=True)
    path = folder / "events.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    run = Run.create(folder / "run")
    prepare(PrepareConfig(source="files", interactions=path, **settings), run)
    return Dataset.load(run), run.read_json("prepare", "prepare.json")["warnings"]


def training(data: Dataset) -> np.ndarray:
    return np.isin(data.roles, (FIT, PERSONALIZE))


def a_crawler_and(people: int, events: int = 10) -> Rows:
    """One user with 400 events beside `people` with a few each."""
    rows = [("crawler", f"i{step % 50}", 1000 + step) for step in range(400)]
    return rows + [
        (f"u{u}", f"i{(u + step) % 50}", 1000 + step) for u in range(people) for step in range(events)
    ]


# -- the cap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("people", "cap"), [(400, 0.05), (30, 0.05), (400, 0.001), (400, 0.02)])
def test_nobody_is_more_than_the_cap_or_ten_even_shares(tmp_path, people, cap):
    data, warnings = written(tmp_path, a_crawler_and(people), user_cap=cap)
    mine = data.users == data.user_index("crawler")
    bound = max(cap, EVEN_SHARES / (people + 1))
    kept, all_of_it = (training(data) & mine).sum(), training(data).sum()
    assert kept / all_of_it <= bound
    assert (kept + 1) / (all_of_it + 1) > bound  # as many as fit
    (notice,) = [one for one in warnings if one["reason"] == "user_capped"]
    dropped = (mine & (data.roles == UNUSED)).sum()
    assert notice["count"] == dropped > 0
    assert "user 'crawler' has" in notice["message"]
    assert "prepare.user_cap" in notice["message"]
    others = data.users != data.user_index("crawler")
    assert not (data.roles[others] == UNUSED).any()


def test_whoever_is_below_the_cap_is_left_alone(tmp_path):
    for number, settings in enumerate(({"user_cap": 1.0}, {"user_cap": 0.5})):
        data, warnings = written(tmp_path / str(number), a_crawler_and(60), **settings)
        assert not (data.roles == UNUSED).any()
        assert [one for one in warnings if one["reason"] == "user_capped"] == []


def test_what_is_left_out_stays_in_histories_and_what_is_held_out_stays_held_out(tmp_path):
    capped, _ = written(tmp_path / "capped", a_crawler_and(400), user_cap=0.02)
    whole, _ = written(tmp_path / "whole", a_crawler_and(400), user_cap=1.0)
    for name in ("users", "items", "times"):
        np.testing.assert_array_equal(getattr(capped, name), getattr(whole, name))
    changed = capped.roles != whole.roles
    assert changed.any()
    assert (capped.roles[changed] == UNUSED).all()
    assert training(whole)[changed].all()


def test_what_is_left_out_is_drawn_by_seed_over_all_of_time(tmp_path):
    """Not the first or the last: FIT and PERSONALIZE lose alike, and another seed draws others."""
    gone = []
    for number, seed in enumerate((0, 0, 1)):
        data, _ = written(tmp_path / str(number), a_crawler_and(400), user_cap=0.02, split={"seed": seed})
        gone.append(np.flatnonzero(data.roles == UNUSED))
    np.testing.assert_array_equal(gone[0], gone[1])
    assert len(gone[0]) == len(gone[2])
    assert (gone[0] != gone[2]).any()
    places = gone[0] - data.offsets[data.user_index("crawler")]
    halves = np.histogram(places, bins=4, range=(0, 340))[0]  # of its 340 training events
    assert halves.min() > 0.7 * halves.max()


# -- ties -----------------------------------------------------------------------------------------------------------


def ties(users: int = 30, items: int = 8) -> Rows:
    """Every user has the same items, all at one moment, after one event by which they are known."""
    rows = [(f"u{u}", "start", 10) for u in range(users)]
    return rows + [(f"u{u}", f"i{i}", 100) for u in range(users) for i in range(items)]


def order_of_ties(data: Dataset) -> list[tuple[str, ...]]:
    """Each user's items of the tie, as they stand."""
    found = []
    for user in range(data.n_users):
        mine = slice(data.offsets[user], data.offsets[user + 1])
        names = data.catalogue.item_ids[data.items[mine]]
        found.append(tuple(names[data.times[mine] == 100]))
    return found


def test_ties_do_not_depend_on_the_order_of_rows_nor_on_who_else_is_there(tmp_path):
    rows = ties()
    data, _ = written(tmp_path / "one", rows)
    shuffled, _ = written(tmp_path / "two", [rows[at] for at in rng(0, "rows").permutation(len(rows))])
    assert order_of_ties(shuffled) == order_of_ties(data)
    np.testing.assert_array_equal(shuffled.roles, data.roles)
    fewer, _ = written(tmp_path / "three", [row for row in rows if row[0] not in ("u0", "u7")])
    kept = [at for at in range(data.n_users) if data.user_ids[at] not in ("u0", "u7")]
    assert order_of_ties(fewer) == [order_of_ties(data)[at] for at in kept]


def test_ties_are_broken_another_way_for_each_user_and_favour_no_item(tmp_path):
    data, _ = written(tmp_path, ties(users=400, items=4))
    orders = order_of_ties(data)
    assert len(set(orders)) == 24  # every order of four occurs
    last = np.unique([order[-1] for order in orders], return_counts=True)[1]
    assert len(last) == 4
    assert (
        np.abs(last - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)
    ).all()  # held out alike: five standard deviations


def test_a_finer_part_of_the_second_comes_before_the_draw(tmp_path):
    rows = [(f"u{u}", f"i{i}", f"2021-03-01T00:00:00.{9 - i}00Z") for u in range(20) for i in range(9)]
    rows += [(f"u{u}", "start", "2021-02-01T00:00:00Z") for u in range(20)]
    data, _ = written(tmp_path, rows)  # type: ignore[arg-type]
    for user in range(data.n_users):
        names = data.catalogue.item_ids[data.items[data.offsets[user] + 1 : data.offsets[user + 1]]]
        assert names.tolist() == [f"i{i}" for i in range(8, -1, -1)]
