"""The stage `embed` with typed edges: people without events have vectors, and what is held out reaches none of its artifacts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.splits import FIT, TEST
from recsys.embeddings import embed, heterogeneous
from recsys.embeddings.config import EmbedConfig
from recsys.recommender import Request
from recsys.run import Run
from recsys.seeds import rng
from tests.support.worlds import hashes_of

KNOWN, COLD, ITEMS = 16, 4, 20
VALIDATION_FROM, TEST_FROM = 100, 200  # people without history come at the test


def world(folder, shift: int = 0) -> Run:
    """Users of even and of odd items, each a friend of the next of their kind; `shift`: other items (and tags) from the test on."""
    folder.mkdir(parents=True)
    draw, rows = rng(0, "world"), []
    for user in range(KNOWN + COLD):
        had = 2 * draw.permutation(ITEMS // 2)[:8] + user % 2
        start = 0 if user < KNOWN else TEST_FROM
        times = start + np.sort(draw.permutation(90)[:8])
        if user < KNOWN:
            times[-2:] = VALIDATION_FROM + user, TEST_FROM + user
        had = np.where(times >= TEST_FROM, (had + shift) % ITEMS, had)
        rows += [(f"u{user}", f"i{item}", int(time)) for item, time in zip(had, times, strict=True)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    events.to_csv(folder / "events.csv", index=False)
    events.assign(tag="t" + events["item_id"]).to_csv(folder / "tags.csv", index=False)
    friends = [(f"u{user}", f"u{(user + 2) % (KNOWN + COLD)}") for user in range(KNOWN + COLD)]
    pd.DataFrame(friends, columns=["from", "to"]).to_csv(folder / "friends.csv", index=False)
    split = {"kind": "global_time", "cutoff_validation_unix_s": VALIDATION_FROM, "cutoff_test_unix_s": TEST_FROM,
             "personalize_fraction": 0.2}  # fmt: skip
    run = Run.create(folder / "run")
    prepare(
        PrepareConfig(source="files", interactions=folder / "events.csv", split=split, time="ordinal"), run
    )
    return run


def embedded(run: Run, reads: str = "all") -> Run:
    folder = run.path.parent
    edges = [
        {"file": folder / "friends.csv", "kind": "user_user", "from_column": "from", "to_column": "to",
         "undated": "always"},
        {"file": folder / "tags.csv", "kind": "user_attribute", "from_column": "user_id", "to_column": "tag",
         "moment": "timestamp"},
    ]  # fmt: skip
    lightgcn = {"dim": 8, "epochs": 20, "batch": 128, "negatives": 8, "patience": 0, "device": "cpu"}
    config = {"edges": edges, "user_reads": reads, "lightgcn": lightgcn, "text_encoder": None, "item_knn": None,
              "leak_margin": 10.0, "refit_for_retrieval": False}  # fmt: skip
    embed.embed(EmbedConfig.model_validate(config), run)
    return run


LEARNED = ("item_vectors.safetensors", "user_messages.safetensors")


def learned(run: Run) -> dict[str, str]:
    hashes = hashes_of(run.path)
    return {name: hashes[f"embed/{name}"] for name in LEARNED}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return embedded(world(tmp_path_factory.mktemp("honest") / "world"), "neighbours")


def test_who_has_no_event_before_has_the_vector_of_friends(honest):
    """And it lies nearer to items of the friends' kind."""
    data, users = Dataset.load(honest), embed.load_user_vectors(honest)
    cold = [data.user_index(f"u{user}") for user in range(KNOWN, KNOWN + COLD)]
    asked = [Request(f"r{user}", user, TEST_FROM) for user in (*cold, None)]
    vectors, known = users.vectors(asked)
    assert known.tolist() == [True] * COLD + [False]
    items = embed.load_item_vectors(honest)["collaborative"]
    odd = np.array([int(name[1:]) % 2 for name in data.catalogue.item_ids])
    scores = vectors[:COLD] @ items.T
    of_kind = np.array([scores[row, odd == row % 2].mean() for row in range(COLD)])
    of_other = np.array([scores[row, odd != row % 2].mean() for row in range(COLD)])
    assert (of_kind > of_other).all()
    report = json.loads((honest.path / "embed" / "embed.json").read_text())
    assert [some["learned"] > 0 for some in report["edges"]] == [True, True]
    assert report["space"].endswith(":neighbours")


def test_what_is_done_from_the_test_on_reaches_no_artifact(honest, tmp_path):
    changed = embedded(world(tmp_path / "world", shift=1), "neighbours")
    assert learned(changed) == learned(honest)
    cold = Dataset.load(honest).user_index(f"u{KNOWN}")
    ours, theirs = (
        embed.load_user_vectors(run).vectors([Request("r", cold, TEST_FROM)])[0] for run in (honest, changed)
    )
    assert (ours == theirs).all()


@pytest.mark.parametrize("leak", ["tags of every moment", "events of the test"])
def test_a_planted_leak_is_seen(leak, tmp_path, monkeypatch):
    if leak == "tags of every moment":
        monkeypatch.setattr(
            heterogeneous, "_first_not_fit", lambda data: np.full(data.n_users, heterogeneous.NEVER)
        )
    else:
        monkeypatch.setitem(embed.ROLES, embed.GENERATOR, (FIT, TEST))
    sides = [learned(embedded(world(tmp_path / str(shift), shift))) for shift in (0, 1)]
    assert sides[0]["user_messages.safetensors"] != sides[1]["user_messages.safetensors"]
