"""Queries that training may read, where the split is at one moment for everybody."""

from __future__ import annotations

import pandas as pd

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.prepare import prepare
from recsys.data.splits import UNUSED
from recsys.run import Run

CUT = 1_500_000_000


def prepared(folder, split: dict) -> Dataset:
    """Four people with ten items each, half of them behind the cut; two queries of each: in training's time, and after all."""
    events = [
        (f"u{u}", f"i{(u + 3 * at) % 10}", CUT + 100 * (at - 5) + u) for u in range(4) for at in range(10)
    ]
    asked = [(f"u{u}", f"i{u}", CUT - 490, f"early {u}") for u in range(4)]
    asked += [(f"u{u}", f"i{(u + 27) % 10}", CUT + 400 + u, f"late {u}") for u in range(4)]  # the last event
    asked += [("u0", "i0", CUT + 5000, "later than all")]
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "e.csv", index=False)
    pd.DataFrame(asked, columns=["user_id", "item_id", "timestamp", "query"]).to_csv(
        folder / "q.csv", index=False
    )
    run = Run.create(folder / "run")
    config = {"source": "files", "interactions": folder / "e.csv", "queries": folder / "q.csv"}
    prepare(PrepareConfig(**config, held_out_queries=0, split=split), run)
    return Dataset.load(run)


def read(data: Dataset) -> set[str]:
    return {text for some in Phrases(data).of for text in some}


def test_words_of_after_the_cut_are_read_by_no_training(tmp_path):
    """Not even those about events that are no test instance because their user has enough of them."""
    cuts = {"cutoff_validation_unix_s": CUT, "cutoff_test_unix_s": CUT + 100}
    split = {"kind": "global_time", "max_test_per_user": 2, "personalize_fraction": 0.0, **cuts}
    data = prepared(tmp_path, split)
    assert (data.roles == UNUSED).sum() == 8
    assert read(data) == {f"early {user}" for user in range(4)}


def test_where_everybody_has_a_moment_of_their_own_later_words_of_others_are_read(tmp_path):
    data = prepared(tmp_path, {"kind": "leave_last_out", "personalize_fraction": 0.0})
    assert data.learned_until is None
    assert read(data) == {f"early {user}" for user in range(4)} | {"later than all"}
