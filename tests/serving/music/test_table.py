"""The music table of a run: its rows, what KTO learns, kills, the listener."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from evaluation.music.judge import FIGURES
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT
from recsys.engagement.shown_lists import GENERATOR_VALIDATION, ShownLists
from recsys.run import Run
from serving.answering.recommender import Recommender
from serving.pipeline import run_all, run_stage
from serving.stages.listener import affinity_correlation, fit_listener
from serving.stages.music import BLOCK, MusicTable
from serving.stages.names import PLAYLIST_STAGES, STAGES
from tests.support.music import row_of, table_of


def test_every_row_is_there_with_its_figures(music_run):
    _, run = music_run
    names = [row["name"] for row in table_of(run)["rows"]]
    assert names == [
        "Embedding Reranking", "No Context", "Static Prefix (LM)", "Static Prefix (KTO)", "E2P (LM)", "E2P-Random (LM)",
        "E2P (KTO eq. 5)", "E2P (KTO)", "E2P-Random (KTO)",
    ]  # fmt: skip
    for row in table_of(run)["rows"]:
        for figure in FIGURES:
            blank = figure == "held_out" or (
                row["name"] == "Embedding Reranking" and figure in ("affinity", "above")
            )
            if (
                blank
            ):  # this world has no held-out query; Reranking ranks by a similarity, and has no probabilities
                assert row[figure] is None
                continue
            assert np.isfinite(row[figure]["value"]), (row["name"], figure)
    primary = table_of(run)["primary"]
    assert [(one["a"], one["b"]) for one in primary] == [
        ("E2P (KTO)", "Static Prefix (KTO)"), ("E2P (KTO)", "E2P-Random (KTO)"), ("E2P (KTO)", "No Context"),
    ]  # fmt: skip


def test_the_report_has_the_table_with_the_predictors_quality_beside_it(music_run):
    _, run = music_run
    report = (run.path / "report.html").read_text()
    for text in (
        "Playlists for queries",
        "E2P (KTO eq. 5)",
        "With another user&#39;s vector",
        "reliability",
        "engaged above not",
    ):
        assert text in report, text
    quality = run.read_json("music", "music.json")["predictor"]
    assert 0.5 < quality["auc"] <= 1
    # in this world engagement is the agreement of user and item: without the user nothing is left to predict
    assert quality["shuffled"]["auc_shuffled"] < quality["auc"] - 0.1


def test_kto_learns_what_a_user_likes_and_lm_alone_does_less(music_run):
    _, run = music_run
    above = {row["name"]: row["above"]["value"] for row in table_of(run)["rows"] if row["above"]}
    for name in ("E2P (KTO)", "E2P (KTO eq. 5)"):
        assert above[name] > 0.58, name
        assert above[name] > above["No Context"] + 0.08, name
        assert above[name] > above["Static Prefix (KTO)"] + 0.08, name
        engagement = row_of(run, name)["engagement"]
        assert engagement["difference_ci95"][0] > 0, name
        assert engagement["value"] > row_of(run, "E2P (LM)")["engagement"]["value"], name
    # another user's taste says nothing: no more than nobody's does, and far from one's own
    assert row_of(run, "E2P-Random (KTO)")["above"]["difference_ci95"][0] < 0
    assert above["E2P-Random (KTO)"] < above["E2P (KTO)"] - 0.2
    assert (
        row_of(run, "E2P-Random (KTO)")["engagement"]["value"]
        < row_of(run, "E2P (KTO)")["engagement"]["value"] - 0.05
    )


def test_nothing_is_run_twice_and_a_killed_table_goes_on_to_the_same_bytes(music_run, tmp_path, monkeypatch):
    config, run = music_run
    done = {stage: run.record(stage)["finished_unix_s"] for stage in STAGES + PLAYLIST_STAGES}
    run_all(config, run, console=Console(quiet=True))
    assert {stage: run.record(stage)["finished_unix_s"] for stage in STAGES + PLAYLIST_STAGES} == done
    shutil.copytree(run.path, tmp_path / "again")
    again = Run.create(tmp_path / "again")
    shutil.rmtree(again.path / "music")
    block, calls = MusicTable._block, []

    def dies(self, recommender, rows, t):
        calls.append(rows)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return block(self, recommender, rows, t)

    monkeypatch.setattr(MusicTable, "_block", dies)
    monkeypatch.setattr(
        "serving.report.publish.publish_music", lambda run, found: None
    )  # the report was drawn
    with pytest.raises(KeyboardInterrupt):
        run_stage("music", config, again)
    assert again.record("music") is None
    run_stage("music", config, again)
    # align's rows, two E2P-Random of five permutations, No Context and Embedding Reranking
    replicas = 5 + 2 * 5 + 2
    blocks = -(-table_of(run)["n_requests"] // BLOCK)
    assert len(calls) == replicas * blocks + 1  # only the block that died is measured again
    assert again.record("music")["artifacts"] == run.record("music")["artifacts"]


def test_the_temperature_is_the_one_at_which_draws_hold_engaged_validation_items_most_often(music_run):
    """Put together again from single log-probabilities of every engaged item of the generator's validation lists."""
    config, run = music_run
    lists, data = ShownLists.load(run), Dataset.load(run)
    methods = Recommender.load(run.path).methods
    pairs = [
        (lists.request(int(at), data), int(item))
        for at in lists.of(GENERATOR_VALIDATION)
        for item, engaged in zip(*lists.shown(int(at)), strict=True)
        if engaged
    ]
    assert len(pairs) < config.music.validation_instances  # so all of them are asked about
    for key, name in (("no_context", "No Context"), ("e2p_kto", "E2P (KTO)")):
        means = []
        for t in config.music.temperature_grid:
            log_p = methods.build(key).log_prob(
                [one for one, _ in pairs], np.array([item for _, item in pairs]), t
            )
            hit = pd.Series(1 - (1 - np.exp(log_p)) ** config.music.n)
            means.append(hit.groupby([one.user for one, _ in pairs]).mean().mean())
        assert row_of(run, name)["own"]["temperature"] == config.music.temperature_grid[int(np.argmax(means))]


def test_the_listener_counts_no_event_that_it_is_fitted_or_judged_on(music_run):
    _, run = music_run
    data = Dataset.load(run)
    listener = fit_listener(Recommender.load(run.path).methods, "backbone", 0)
    fitted = np.bincount(data.items[data.roles == FIT], minlength=data.n_items)
    assert listener.judge.space.popularity.tolist() == fitted.tolist()
    judge, test = listener.judge, listener.judge.test
    cosines = []
    for vectors, items in (
        (test.user_vectors, judge.space.collaborative),
        (judge.affinity_users, judge.affinity_items),
    ):
        of = test.list_of_item()
        cosines.append(
            [
                vectors[q] @ items[i] / np.linalg.norm(vectors[q]) / np.linalg.norm(items[i])
                for q, i in zip(of, test.items, strict=True)
            ]
        )
    assert affinity_correlation(judge) == pytest.approx(spearmanr(*cosines).statistic, abs=1e-4)
    assert table_of(run)["affinity_rank_correlation"] == pytest.approx(affinity_correlation(judge))
