"""The judge asks every metric of every replica."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluation.engagement.features import FeatureMaker, ItemSpace, Shown
from evaluation.engagement.predictor import EngagementPredictor
from evaluation.music import metrics as metrics
from evaluation.music.judge import FIGURES, PlaylistJudge

USERS = np.repeat(np.arange(40), 3)


R, N = len(USERS), 50


# -- the judge --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> PlaylistJudge:
    generator = np.random.default_rng(4)
    space = ItemSpace(
        generator.normal(size=(N, 4)), generator.normal(size=(N, 5)), generator.integers(0, 9, N)
    )
    maker = FeatureMaker.of(space)
    names = maker.names(False)
    arrays = {"weights.0": generator.normal(size=(len(names), 1)), "bias.0": np.zeros(1),
              "mean": np.zeros(len(names)), "scale": np.full(len(names), 3.0)}  # fmt: skip
    test = Shown(
        user_vectors=generator.normal(size=(6, 4)), known=np.array([True] * 5 + [False]),
        query_vectors=generator.normal(size=(6, 5)), offsets=np.arange(7) * 5,
        items=np.concatenate([generator.permutation(N)[:5] for _ in range(6)]),
        users=np.array([0, 0, 1, 1, 2, -1]), labels=generator.random(30) < 0.5,
    )  # fmt: skip
    return PlaylistJudge(
        EngagementPredictor("logistic", False, maker, arrays, 1.0, 0.0), space, test,
        affinity_users=generator.normal(size=(6, 3)), affinity_known=test.known,
        affinity_items=generator.normal(size=(N, 3)),
        carriers=[generator.permutation(N)[:20] for _ in range(6)],
        held_out=np.array([False, True, False, False, True, False]),
    )  # fmt: skip


def test_the_judge_asks_every_metric_of_every_replica(judge):
    generator = np.random.default_rng(5)
    replicas = [np.stack([generator.permutation(N)[:6] for _ in range(6)]) for _ in range(2)]
    replicas[0][2, 4:] = -1
    above = [generator.random(6) for _ in range(2)]
    row = judge.row(replicas, above=above, sharpened=replicas[::-1])
    assert set(row.figures) == set(FIGURES)
    assert np.array_equal(row.figures["above"], np.stack(above, axis=1))
    assert np.array_equal(row.figures["sharpened"], row.figures["engagement"][:, ::-1])
    for k, lists in enumerate(replicas):
        for r, listed in enumerate(lists):
            items = listed[listed >= 0]
            found = {name: values[r, k] for name, values in row.figures.items()}
            assert found["held_out"] == pytest.approx(
                found["precision"] if judge.held_out[r] else np.nan, nan_ok=True
            )
            assert found["precision"] == pytest.approx(np.mean([item in judge.carriers[r] for item in items]))
            mine = slice(5 * r, 5 * r + 5)
            shown, liked = judge.test.items[mine], judge.test.labels[mine]
            for name, wanted in (("liked", shown[liked]), ("disliked", shown[~liked])):
                hits = np.mean([item in items for item in wanted]) if len(wanted) else np.nan
                assert found[name] == pytest.approx(hits, nan_ok=True)
            alone = judge.predictor.predict_lists(
                judge.test.user_vectors[[r]], judge.test.known[[r]], judge.test.query_vectors[[r]],
                items[None], judge.space,
            )  # fmt: skip
            assert found["engagement"] == pytest.approx(alone[0])
    assert np.isnan(row.figures["affinity"][5]).all()
    assert not np.isnan(row.figures["affinity"][:5]).any()
    assert judge.row(replicas, with_affinity=False).figures["affinity"] is None


def test_the_judge_refuses_lists_of_other_requests(judge):
    with pytest.raises(ValueError, match="6 test requests, and got lists for 5"):
        judge.row([np.zeros((5, 3), np.int64)])


def test_without_a_space_of_its_own_there_is_no_affinity(judge):
    lists = [np.stack([np.arange(6)] * 6)]
    assert replace(judge, affinity_items=None).row(lists).figures["affinity"] is None
    assert judge.row(lists, with_affinity=False).figures["affinity"] is None
    blank = judge.row(lists).figures
    assert blank["above"] is None
    assert blank["sharpened"] is None
