"""Weights: over their mean on training, in counts, and refused where they cannot weigh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.data.catalogue import ItemTotals
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.splits import FIT, PERSONALIZE
from recsys.door.tables import DataError
from recsys.run import Run

Rows = list[tuple[str, str, int, str]]


def written(folder: Path, rows: Rows, fourth: str, **settings) -> tuple[Dataset, Run]:
    folder.mkdir(exist_ok=True)
    path = folder / "events.csv"
    lines = [f"user_id,item_id,timestamp,{fourth}", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    run = Run.create(folder / "run")
    prepare(PrepareConfig(source="files", interactions=path, **settings), run)
    return Dataset.load(run), run


def rows_of(weight) -> Rows:
    """Six users with eight items each; the fourth column is `weight(user, item)`."""
    return [
        (f"u{u}", f"i{(u + 3 * step) % 11}", 100 * step + u, weight(u, step))
        for u in range(6)
        for step in range(8)
    ]


def test_weights_are_relative_to_the_mean_of_training(tmp_path):
    data, run = written(tmp_path, rows_of(lambda u, step: 1 + u), "weight")
    training = np.isin(data.roles, (FIT, PERSONALIZE))
    assert data.relative_weights[training].mean() == pytest.approx(1)
    np.testing.assert_allclose(data.relative_weights / data.relative_weights[0], 1 + data.users, rtol=1e-6)
    np.testing.assert_array_equal(data.weighed(training), data.relative_weights[training])
    again, _ = written(tmp_path / "thousand", rows_of(lambda u, step: 1000 * (1 + u)), "weight")
    np.testing.assert_allclose(again.relative_weights, data.relative_weights)  # only ratios matter
    said = run.read_json("prepare", "prepare.json")["card"]["readings"]
    assert [line for line in said if line.startswith("weights from 1 to 6 are read")]


def test_weights_that_are_alike_weigh_nothing_and_it_is_said(tmp_path):
    plain, _ = written(tmp_path / "plain", rows_of(lambda u, step: ""), "note")
    ones, _ = written(tmp_path / "ones", rows_of(lambda u, step: 1), "weight")
    fives, run = written(tmp_path / "fives", rows_of(lambda u, step: 5), "weight")
    assert plain.relative_weights is ones.relative_weights is fives.relative_weights is None
    assert plain.weighed(plain.events(FIT)) is None
    for name in ("events.parquet", "users.parquet", "items.parquet"):
        read = [(tmp_path / kind / "run" / "prepare" / name).read_bytes() for kind in ("plain", "ones")]
        assert read[0] == read[1]
    np.testing.assert_array_equal(fives.item_totals.counts, plain.item_totals.counts)
    assert any(
        "weigh nothing" in line for line in run.read_json("prepare", "prepare.json")["card"]["readings"]
    )


def test_the_weight_of_a_held_out_event_weighs_nothing(tmp_path):
    """The last event of each user is the test; a weight there alone changes no figure of training."""
    data, _ = written(
        tmp_path, rows_of(lambda u, step: 9 if step == 7 else 1), "weight", split={"kind": "leave_last_out"}
    )
    assert data.relative_weights is None


def test_counts_are_sums_of_weights_and_a_last_touch_is_a_moment():
    items, times = np.array([2, 0, 2, 1]), np.array([5, 1, 3, 9])
    plain = ItemTotals.of(items, times, 4)
    heavy = ItemTotals.of(items, times, 4, np.array([0.5, 3.0, 0.25, 1.0]))
    np.testing.assert_array_equal(plain.counts, [1, 1, 2, 0])
    assert plain.counts.dtype == np.int64
    np.testing.assert_array_equal(heavy.counts, [3.0, 1.0, 0.75, 0.0])
    np.testing.assert_array_equal(heavy.last, plain.last)


def test_totals_with_weights_survive_an_export_without_users(tmp_path):
    data, _ = written(tmp_path, rows_of(lambda u, step: 0.001 if u else 1000), "weight")
    nobody = data.without_users()
    nobody.item_totals.save(tmp_path)
    back = ItemTotals.load(tmp_path / "item_totals.parquet")
    np.testing.assert_array_equal(back.counts, data.item_totals.counts)
    order = np.argsort(-data.item_totals.counts, kind="stable")
    mine = set(data.items[(data.users == 0) & np.isin(data.roles, (FIT, PERSONALIZE))].tolist())
    assert set(order[: len(mine)].tolist()) == mine  # what the heavy user had is most popular


def test_a_kind_of_events_weighs_as_it_is_told(tmp_path):
    rows = rows_of(lambda u, step: ("view", "purchase")[step % 2])
    data, _ = written(tmp_path, rows, "event", events={"view": 0.1, "purchase": 1.0})
    weights = np.where(data.kinds == "view", 0.1, 1.0)
    np.testing.assert_allclose(
        data.relative_weights / weights, data.relative_weights[0] / weights[0], rtol=1e-6
    )
    assert data.relative_weights is not None


@pytest.mark.parametrize("weight", ["1e-60", "1e300", "0", "-1"])
def test_a_weight_that_cannot_weigh_is_refused_by_place(tmp_path, weight):
    with pytest.raises(DataError, match=r"events.csv:4: weight"):
        written(tmp_path, rows_of(lambda u, step: weight if (u, step) == (0, 2) else "1"), "weight")


def test_a_kind_that_weighs_nothing_is_refused(tmp_path):
    rows = rows_of(lambda u, step: ("view", "purchase")[step % 2])
    with pytest.raises(DataError, match="call its kind context or drop"):
        written(tmp_path, rows, "event", events={"view": 0.0, "purchase": 1.0})
