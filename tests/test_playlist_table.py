"""The music table: rows by hand and against scipy and statsmodels; what is blank; the judge; the forest plot."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evaluation.engagement.features import FeatureMaker, ItemSpace, Shown
from evaluation.engagement.plots import engagement_forest
from evaluation.engagement.predictor import EngagementPredictor
from evaluation.music import metrics as metrics
from evaluation.music.judge import FIGURES, PlaylistJudge, PlaylistRow
from evaluation.music.table import describe_music, music_table, music_tables
from evaluation.report.tables import NONE

USERS = np.repeat(np.arange(40), 3)
R, N = len(USERS), 50
NAMES = ("Embedding Reranking", "No Context", "Static Prefix", "E2P-Random", "E2P (LM)", "E2P (KTO)")


def made_row(seed: int, gain: float, replicas: int = 1, **figures: np.ndarray | None) -> PlaylistRow:
    """Lists and figures that share a user's level with every other row, plus `gain` and noise."""
    level = np.random.default_rng(99).normal(0.5, 0.1, 40)[USERS]
    generator = np.random.default_rng(seed)
    lists = np.stack([[generator.permutation(N)[:6] for _ in range(R)] for _ in range(replicas)])
    values: dict[str, np.ndarray | None] = {
        name: level[:, None] + gain + generator.normal(0, 0.05, (R, replicas)) for name in FIGURES
    }
    return PlaylistRow(lists, values | figures)


@pytest.fixture(scope="module")
def rows() -> dict[str, PlaylistRow]:
    gains = (0.03, 0.0, 0.002, 0.005, 0.01, 0.05)
    made = {name: made_row(at, gain) for at, (name, gain) in enumerate(zip(NAMES, gains, strict=True))}
    made["Embedding Reranking"] = made_row(0, 0.03, affinity=None)
    made["E2P-Random"] = made_row(3, 0.005, replicas=5)
    return made


@pytest.fixture(scope="module")
def table(rows) -> dict:
    return music_table(rows, USERS, N, primary="E2P (KTO)")


def row_of(table: dict, name: str) -> dict:
    return next(row for row in table["rows"] if row["name"] == name)


def per_user(row: PlaylistRow, figure: str) -> np.ndarray:
    return row.figures[figure].mean(axis=1).reshape(40, 3).mean(axis=1)


@pytest.mark.parametrize("name", NAMES[2:])
@pytest.mark.parametrize("figure", ["engagement", "affinity", "novelty"])
def test_figures_and_paired_differences_equal_scipys(rows, table, name, figure):
    mine, base = per_user(rows[name], figure), per_user(rows["No Context"], figure)
    found, wanted = row_of(table, name)[figure], stats.ttest_rel(mine, base)
    assert found["value"] == pytest.approx(mine.mean())
    assert found["ci95"] == pytest.approx(stats.t.interval(0.95, 39, mine.mean(), stats.sem(mine)))
    assert found["difference"] == pytest.approx((mine - base).mean())
    assert found["difference_ci95"] == pytest.approx(list(wanted.confidence_interval()))
    assert found["p_value"] == pytest.approx(wanted.pvalue)
    assert found["relative_pct"] == pytest.approx(100 * (mine.mean() / base.mean() - 1))
    assert found["relative_ci95_pct"] == pytest.approx(
        [100 * end / base.mean() for end in found["difference_ci95"]]
    )


def test_three_families_of_tests_by_statsmodels(rows, table):
    base = per_user(rows["No Context"], "engagement")

    def p_values(names, figure, against=None):
        other = per_user(rows["No Context"], figure) if against is None else against
        return [stats.ttest_rel(per_user(rows[name], figure), other).pvalue for name in names]

    others = [name for name in NAMES if name not in ("No Context", "E2P (KTO)")]
    adjusted = multipletests(p_values(others, "engagement"), method="holm")[1]
    assert [row_of(table, name)["engagement"]["p_holm"] for name in others] == pytest.approx(adjusted)

    with_affinity = list(NAMES[2:])
    adjusted = multipletests(p_values(with_affinity, "affinity"), method="holm")[1]
    assert [row_of(table, name)["affinity"]["p_holm"] for name in with_affinity] == pytest.approx(adjusted)

    first = per_user(rows["E2P (KTO)"], "engagement")
    named = [
        stats.ttest_rel(first, other).pvalue
        for other in (per_user(rows["Static Prefix"], "engagement"), base)
    ]
    assert [(one["a"], one["b"]) for one in table["primary"]] == [
        ("E2P (KTO)", "Static Prefix"),
        ("E2P (KTO)", "No Context"),
    ]
    adjusted = multipletests(named, method="holm")[1]
    assert [one["p_holm"] for one in table["primary"]] == pytest.approx(adjusted)
    assert row_of(table, "E2P (KTO)")["engagement"]["p_holm"] == table["primary"][1]["p_holm"]


def test_other_figures_have_intervals_and_no_corrected_test(table):
    found = row_of(table, "E2P (LM)")["novelty"]
    assert found["difference_ci95"] is not None
    assert found["p_holm"] is None


def test_the_bootstrap_agrees_with_the_t_interval(table):
    for one in table["primary"]:
        assert one["bootstrap_ci95"] == pytest.approx(one["difference_ci95"], abs=0.004)


def test_affinity_is_blank_for_reranking(table):
    assert row_of(table, "Embedding Reranking")["affinity"] is None
    printed = next(one for one in music_tables(table) if "affinity" in one[0])
    cells = {row["name"]: [show(row[key]) for _, key, show in printed[1]] for row in printed[2]}
    assert set(cells["Embedding Reranking"][1:]) == {NONE}
    assert NONE not in cells["E2P (LM)"]


def test_requests_that_one_side_cannot_answer_for_leave_the_pair():
    """Users without an affinity vector, and a row whose third requests have lists of one item, without a diversity."""
    a, b = made_row(1, 0.1), made_row(2, 0.0)
    unknown, short = np.arange(R) < 6, np.arange(R) % 3 == 2
    for row in (a, b):
        row.figures["affinity"][unknown] = np.nan
    a.figures["diversity"][short] = np.nan
    found = row_of(music_table({"No Context": b, "A": a}, USERS, N, primary="A"), "A")
    assert found["affinity"]["n_users"] == 38
    change = (a.figures["affinity"] - b.figures["affinity"])[6:, 0].reshape(38, 3).mean(axis=1)
    assert found["affinity"]["difference"] == pytest.approx(change.mean())
    change = (a.figures["diversity"] - b.figures["diversity"])[:, 0].reshape(40, 3)[:, :2].mean(axis=1)
    assert found["diversity"]["difference"] == pytest.approx(change.mean())


def test_a_base_that_is_not_positive_has_no_percentage():
    a, b = made_row(1, 0.1), made_row(2, -1.0)
    found = row_of(music_table({"No Context": b, "A": a}, USERS, N, primary="A"), "A")["engagement"]
    assert found["difference"] > 1
    assert (found["relative_pct"], found["relative_ci95_pct"]) == (None, None)


def test_rows_that_were_not_measured(rows):
    without = {name: row for name, row in rows.items() if name not in ("Static Prefix", "E2P (KTO)")}
    table = music_table(without, USERS, N, primary="E2P (KTO)")
    assert table["primary"] == []
    assert not any("named before the run" in title for title, _, _ in music_tables(table))
    with pytest.raises(ValueError, match="'No Context', which was not measured"):
        music_table({"E2P": rows["E2P (LM)"]}, USERS, N, primary="E2P")


def test_coverage_and_gini_are_means_over_replicas(rows, table):
    lists = rows["E2P-Random"].lists
    found = row_of(table, "E2P-Random")
    assert found["n_replicas"] == 5
    assert found["gini"] == pytest.approx(np.mean([metrics.gini(one, N) for one in lists]))
    assert found["coverage"] == pytest.approx(np.mean([len(np.unique(one)) / N for one in lists]))
    assert found["length"] == 6


def test_the_table_goes_into_json_and_every_cell_is_printed(table):
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    for title, columns, rows in music_tables(table):
        assert rows, title
        assert all(show(row[key]) for row in rows for _, key, show in columns), title
    assert "E2P (KTO) against Static Prefix" in " ".join(describe_music(table))


def test_the_forest_has_a_line_for_every_comparison(table):
    assert engagement_forest(table)[:4] == b"\x89PNG"
    alone = music_table({"No Context": made_row(2, 0.0)}, USERS, N, primary="E2P (KTO)")
    assert engagement_forest(alone) is None


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


def test_the_primary_row_may_have_several_controls(rows):
    table = music_table(rows, USERS, N, primary="E2P (KTO)", controls=("Static Prefix", "E2P-Random"))
    assert [one["b"] for one in table["primary"]] == ["Static Prefix", "E2P-Random", "No Context"]
    raw = [one["p_value"] for one in table["primary"]]
    assert [one["p_holm"] for one in table["primary"]] == pytest.approx(multipletests(raw, method="holm")[1])
