"""Users held out before anything is learned: the clusters by hand, and what is prepared of a held-out user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import user_splits
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.prepare import prepare
from recsys.data.splits import (
    DROPPED,
    FIT,
    OOD,
    PERSONALIZE,
    RANDOM,
    TEST,
    UNUSED,
    VALIDATION,
    WARM,
    hold_out_users,
)
from recsys.data.user_splits import (
    UserSplitConfig,
    assign_groups,
    cluster_users,
    isolation,
    profile_texts,
    proportional,
)
from recsys.door.tables import DataError
from recsys.run import Run
from recsys.seeds import rng

KINDS = ["last_fraction", "leave_last_out", "global_time"]


# -- clusters, by hand ------------------------------------------------------------------------------------------


def placed(*clusters: tuple[float, float, int]) -> tuple[np.ndarray, np.ndarray]:
    """Users at exactly (x, y), `size` of them for each (x, y, size): vectors and clusters."""
    sizes = [size for _, _, size in clusters]
    return np.repeat([(x, y) for x, y, _ in clusters], sizes, axis=0), np.repeat(np.arange(len(sizes)), sizes)


def test_isolation_by_hand():
    vectors, clusters = placed((0, 0, 4), (3, 0, 3), (0, 4, 1))
    names, centroids, score = isolation(vectors, clusters)
    assert names.tolist() == [0, 1, 2]
    np.testing.assert_allclose(centroids, [(0, 0), (3, 0), (0, 4)])
    np.testing.assert_allclose(score, [3.5 / 5, 4 / 4, 4.5 / 2])


@pytest.mark.parametrize(
    ("clusters", "strangest"),
    [
        (((0, 0, 9), (1, 0, 8), (20, 0, 3)), 2),  # far and small
        (((0, 0, 9), (1, 0, 3), (20, 0, 3)), 2),  # of two small ones the far one
        (((0, 0, 40), (1, 0, 3), (2, 0, 30)), 1),  # near, but small beside big ones
        (((0, 0, 3), (1, 0, 3), (30, 0, 300)), 0),  # far, but big: nobody would be left
    ],
)
def test_a_far_small_cluster_is_out_of_distribution_and_a_big_near_one_is_not(clusters, strangest):
    vectors, names = placed(*clusters)
    size = clusters[strangest][2]
    groups = assign_groups(vectors, names, np.ones(len(names), bool), size, 0, seed=0)
    assert (groups == OOD).tolist() == (names == strangest).tolist()
    assert (groups[names != strangest] == WARM).all()


def test_what_remains_of_a_cluster_that_did_not_fit_is_dropped():
    """Three are wanted: a cluster of two whole, then of the next the one farthest from its centroid (8.25, 0)."""
    vectors = np.array([(0, 0)] * 9 + [(50, 0)] * 2 + [(8, 0), (9, 0), (8, 0), (8, 0)], dtype=float)
    clusters = np.repeat([0, 1, 2], [9, 2, 4])
    groups = assign_groups(vectors, clusters, np.ones(15, bool), 3, 0, seed=0)
    assert groups.tolist() == [WARM] * 9 + [OOD] * 2 + [DROPPED, OOD, DROPPED, DROPPED]


def test_only_users_who_can_be_measured_are_held_out():
    vectors, clusters = placed((0, 0, 9), (50, 0, 2), (-20, 0, 3))
    testable = np.ones(14, bool)
    testable[[9, 11]] = False
    groups = assign_groups(vectors, clusters, testable, 2, 0, seed=0)
    assert groups.tolist() == [WARM] * 9 + [DROPPED, OOD] + [DROPPED, OOD, DROPPED]
    testable[9:11] = False  # nobody of the far cluster could be measured, so it stays in training
    groups = assign_groups(vectors, clusters, testable, 2, 7, seed=0)
    assert groups[9:].tolist() == [WARM] * 2 + [DROPPED, OOD, OOD]
    assert (groups[:9] == RANDOM).sum() == 7


def test_the_random_part_mirrors_the_clusters_that_are_left():
    vectors, clusters = placed((0, 0, 60), (1, 0, 30), (0, 1, 10), (90, 0, 5))
    groups = assign_groups(vectors, clusters, np.ones(105, bool), 5, 20, seed=3)
    assert [int((groups[clusters == name] == RANDOM).sum()) for name in range(4)] == [12, 6, 2, 0]
    assert (groups[clusters == 3] == OOD).all()
    again, other = (assign_groups(vectors, clusters, np.ones(105, bool), 5, 20, seed=seed) for seed in (3, 4))
    assert (again == groups).all()
    assert (other != groups).any()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.floats(0, 1))
def test_proportional_shares(counts, share):
    counts = np.array(counts)
    total = int(share * counts.sum())
    shares = proportional(counts, total)
    assert shares.sum() == total
    assert (shares <= counts).all()
    assert (np.abs(shares - counts * total / max(1, counts.sum())) < 1).all()


def test_clusters_are_those_of_k_means_and_repeat():
    vectors, names = placed((0, 0, 6), (1, 0, 5), (0, 1, 4))
    vectors = vectors + 0.01 * rng(0, "noise").normal(size=vectors.shape)
    config = UserSplitConfig(random=0.1, clusters=3)
    found = cluster_users(vectors, config)
    assert len({(a, b) for a, b in zip(found, names, strict=True)}) == 3  # the same up to the names
    assert (cluster_users(vectors, config) == found).all()


# -- roles ------------------------------------------------------------------------------------------------------


def test_roles_by_hand():
    roles = [FIT, PERSONALIZE, VALIDATION, TEST, UNUSED]
    groups = np.array([WARM, RANDOM, OOD, DROPPED], dtype=object)
    found = hold_out_users(np.repeat(np.arange(4), 5), np.array(roles * 4), groups)
    held_out = [UNUSED, UNUSED, UNUSED, TEST, UNUSED]
    assert found.tolist() == [*roles, *held_out, *held_out, *[UNUSED] * 5]


# -- the stage, with words counted in place of the sentence encoder -------------------------------------------------


@pytest.fixture
def counted_words(monkeypatch):
    def encode(texts, encoder, max_tokens, label):
        assert encoder == "minilm"
        words = sorted({word for text in texts for word in text.split()})
        counts = np.array([[text.split().count(word) for word in words] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    monkeypatch.setattr(user_splits, "encode_texts", encode)


def world(n_users: int = 60, strange: int = 5) -> list[tuple[str, str, int]]:
    """Most users like i0 to i39 (evens or odds), the last few x0 to x19; each event's item and time by a seed."""
    generator = rng(0, "world of users")
    events = []
    for user in range(n_users):
        for time in np.sort(generator.integers(0, 1000, generator.integers(8, 14))).tolist():
            item = int(generator.integers(0, 20))
            name = f"x{item}" if user >= n_users - strange else f"i{2 * item + user % 2}"
            events.append((f"u{user}", name, time))
    return list(dict.fromkeys(events))


def prepared(folder: Path, events: list[tuple[str, str, int]], **settings) -> tuple[Dataset, Run]:
    """The stage on these events, where an item has its own word as title, and a first letter as its kind."""
    folder.mkdir(exist_ok=True, parents=True)
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "e.csv", index=False)
    names = [f"i{item}" for item in range(40)] + [f"x{item}" for item in range(20)] + ["planted"]
    items = pd.DataFrame(
        {"item_id": names, "title": [f"t-{name}" for name in names], "kind": [n[0] for n in names]}
    )
    items.to_csv(folder / "i.csv", index=False)
    run = Run.create(folder / "run")
    files = {"interactions": folder / "e.csv", "items": folder / "i.csv"}
    prepare(PrepareConfig(source="files", **files, **settings), run)
    return Dataset.load(run), run


SPLIT = {"random": 0.2, "ood": 5 / 60, "clusters": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_user_is_learned_from(tmp_path, counted_words, capsys, kind):
    plain, _ = prepared(tmp_path / "plain", world(), split={"kind": kind})
    data, run = prepared(tmp_path / "split", world(), split={"kind": kind}, user_split=SPLIT)
    held_out = data.user_groups != WARM
    learned = np.isin(data.roles, (FIT, PERSONALIZE, VALIDATION))
    assert learned.any()
    assert not held_out[data.users[learned]].any()
    expected = np.where(held_out[data.users] & (plain.roles != TEST), UNUSED, plain.roles)
    assert (
        data.roles[data.user_groups[data.users] != DROPPED]
        == expected[data.user_groups[data.users] != DROPPED]
    ).all()
    assert (data.user_groups == RANDOM).sum() == 12
    tested = np.unique(data.users[data.events(TEST)])
    assert set(np.flatnonzero(np.isin(data.user_groups, (RANDOM, OOD)))) <= set(tested)
    assert not (data.user_groups[tested] == DROPPED).any()
    event = next(e for e in data.events(TEST) if data.user_groups[data.users[e]] == RANDOM)
    assert (data.request(event, False).history == plain.request(event, False).history).all()
    report = run.read_json("prepare", "prepare.json")
    counts = {group: int((data.user_groups == group).sum()) for group in (WARM, RANDOM, OOD, DROPPED)}
    assert report["user_split"]["users"] == counts
    assert f"users: warm {counts[WARM]}, random 12, ood 5" in capsys.readouterr().out
    assert report["roles"]["unused"] == (data.roles == UNUSED).sum()


def test_the_strange_users_are_the_out_of_distribution_ones(tmp_path, counted_words):
    data, run = prepared(tmp_path, world(), user_split=SPLIT)
    assert set(data.user_ids[data.user_groups == OOD]) == {f"u{user}" for user in range(55, 60)}
    first = run.read_json("prepare", "prepare.json")["user_split"]["clusters"][0]
    assert (first["size"], first["ood"], first["warm"], first["random"]) == (5, 5, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_split_does_not_look_at_test_events(tmp_path, counted_words, kind):
    """Planted: every test event becomes an item of its own. Not a text and not a group changes; earlier ones do."""
    settings = {"split": {"kind": kind}, "user_split": SPLIT}
    honest, _ = prepared(tmp_path / "a", world(), **settings)
    config = UserSplitConfig(**SPLIT)
    assigned, _ = prepared(tmp_path / "plain", world(), split={"kind": kind})  # before users are held out
    rows = [
        (assigned.user_ids[u], "planted" if role == TEST else assigned.catalogue.item_ids[i], int(t))
        for u, i, t, role in zip(assigned.users, assigned.items, assigned.times, assigned.roles, strict=True)
    ]
    planted, _ = prepared(tmp_path / "b", rows, **settings)
    assert (planted.catalogue.item_ids == "planted").any()
    assert (planted.user_groups == honest.user_groups).all()
    texts = profile_texts(prepared(tmp_path / "c", rows, split={"kind": kind})[0], config)
    assert texts == profile_texts(assigned, config)
    assert not any(text and "planted" in text for text in texts)
    earlier = [(u, "planted" if t < 300 else i, t) for u, i, t in rows]
    texts = profile_texts(
        prepared(tmp_path / "d", earlier, split={"kind": kind})[0], UserSplitConfig(profile_titles=99)
    )
    assert any(text and "planted" in text for text in texts)


def test_profile_texts_by_hand(tmp_path):
    events = [("a", "i1", 1), ("a", "x1", 2), ("a", "i2", 3), ("a", "i3", 4), ("a", "i4", 4), ("b", "i5", 4)]
    data, _ = prepared(tmp_path, events, split={"kind": "leave_last_out"})
    assert data.roles.tolist()[4] == TEST  # a's last; i3 has the same second, so it is not in its history
    config = UserSplitConfig(profile_titles=2)
    assert profile_texts(data, config) == ["i, x. t-i2; t-x1", "i. t-i5"]
    assert profile_texts(data, UserSplitConfig(profile_titles=0, profile_values=1)) == ["i", "i"]


def test_the_same_input_gives_the_same_users(tmp_path, counted_words):
    one, two, other = (
        prepared(tmp_path / name, world(), user_split=SPLIT | {"seed": seed})[0]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert (one.user_groups == two.user_groups).all()
    assert (one.user_groups != other.user_groups).any()


def test_a_run_without_a_split_has_warm_users_and_its_old_bytes(tmp_path):
    data, run = prepared(tmp_path, world())
    assert (data.user_groups == WARM).all()
    assert pd.read_parquet(run.artifact("prepare", "users.parquet")).columns.tolist() == ["user_id"]
    assert "user_split" not in run.read_json("prepare", "prepare.json")


def test_the_sentence_encoder_splits_users_by_what_they_like(tmp_path):
    events = [
        (f"u{user}", f"{'x' if user < 2 else 'i'}{item}", item) for user in range(12) for item in range(6)
    ]
    data, _ = prepared(tmp_path, events, user_split={"ood": 2 / 12, "clusters": 2})
    assert (data.user_groups == OOD).nonzero()[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"random": 0.001}, r"user_split.random is 0.001, which of 60 users is nobody"),
        ({"ood": 0.001}, r"user_split.ood is 0.001, which of 60 users is nobody"),
        ({"random": 0.1, "clusters": 60}, r"clusters is 60, but only 60 users"),
        (
            {"random": 0.3, "ood": 0.6},
            r"random wants 18 users, but 0 are left beside the out-of-distribution",
        ),
        ({"ood": 0.9}, r"holds out 90% of the users and leaves no event to learn from"),
        ({"random": 0.99, "clusters": 3}, r"wants 59 users, but only 58 have a test event"),
    ],
)
def test_a_split_that_leaves_nobody_is_refused(tmp_path, counted_words, settings, problem):
    events = [
        row for row in world() if row[0] not in ("u0", "u1") or row[2] < 200
    ]  # two users without a test
    events += [("u0", "i0", 1), ("u1", "i0", 1)]
    with pytest.raises(DataError, match=problem):
        prepared(tmp_path, events, user_split={"clusters": 3} | settings)
    assert not (tmp_path / "run" / "prepare").exists()


@pytest.mark.parametrize(
    "settings", [{"random": 0.5, "ood": 0.5}, {"random": -0.1}, {"profile_values": 0, "profile_titles": 0}]
)
def test_contradictions_are_refused(settings):
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's message names the field)
        UserSplitConfig(**settings)


# -- what is learned ----------------------------------------------------------------------------------------------


def test_queries_of_held_out_users_teach_nothing(tmp_path, counted_words):
    data, _ = prepared(tmp_path, world(), user_split=SPLIT, held_out_queries=0)
    item = 0
    data.queries = pd.DataFrame(
        {
            "user": [*range(data.n_users), -1],
            "item": item,
            "timestamp": -1,  # no event's moment
            "query": [*(f"q{u}" for u in range(data.n_users)), "q"],
        }
    )
    warm = {f"q{user}" for user in np.flatnonzero(data.user_groups == WARM)}
    own = {
        f"q{u}"
        for u in data.users[(data.items == item) & np.isin(data.roles, (PERSONALIZE, VALIDATION, TEST))]
    }
    assert set(Phrases(data).of[item]) == {"i", "q"} | (warm - own)
