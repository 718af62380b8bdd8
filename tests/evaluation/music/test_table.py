"""The music table: rows by hand and against scipy and statsmodels; what is blank; the forest plot."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evaluation.engagement.plots import engagement_forest
from evaluation.music import metrics as metrics
from evaluation.music.judge import FIGURES, PlaylistRow
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


def test_the_primary_row_may_have_several_controls(rows):
    table = music_table(rows, USERS, N, primary="E2P (KTO)", controls=("Static Prefix", "E2P-Random"))
    assert [one["b"] for one in table["primary"]] == ["Static Prefix", "E2P-Random", "No Context"]
    raw = [one["p_value"] for one in table["primary"]]
    assert [one["p_holm"] for one in table["primary"]] == pytest.approx(multipletests(raw, method="holm")[1])
