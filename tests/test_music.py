"""The music task end to end on a small world: labelled lists, KTO, predictor, table, report; and queries that are understood."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from evaluation.music.judge import FIGURES
from evaluation.music.metrics import liked_above
from llm.align.config import AlignConfig
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT
from recsys.embeddings.embed import load_item_vectors
from recsys.engagement.shown_lists import GENERATOR, GENERATOR_VALIDATION, TEST_LISTS, ShownLists
from recsys.run import Run, RunError
from serving.answering.recommender import Recommender
from serving.config.run import RunConfig, load_config
from serving.engines.local import LocalEngine
from serving.pipeline import run_all, run_stage, stages_of
from serving.playlists.job import playlists
from serving.playlists.plan import Settings
from serving.stages.listener import affinity_correlation, fit_listener, units
from serving.stages.music import BLOCK, MusicTable
from serving.stages.names import PLAYLIST_STAGES, STAGES
from serving.stages.reranking import Reranking
from serving.user_state import delete

KINDS = ("even", "odd")


def rated_world(folder, n_users: int = 240, n_items: int = 48, length: int = 30, seed: int = 0):
    """Items have a kind, which queries speak of, and a style, which nobody names. A user mostly watches one style, of both kinds, and
    likes it: 5 stars for their own style, 2 for the other, with some noise.
    """
    generator = np.random.default_rng(seed)
    style = np.arange(n_items) // 2 % 2
    events = []
    for user in range(n_users):
        own = style == user % 2
        weights = np.where(own, 4.0, 1.0)
        items = generator.choice(n_items, length, replace=False, p=weights / weights.sum())
        for step, item in enumerate(items):
            likes = own[item] != (generator.random() < 0.05)
            events.append((f"u{user}", f"i{item}", 1_000_000 + 1000 * step + user, 5 if likes else 2))
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp", "rating"]).to_csv(
        folder / "events.csv", index=False
    )
    items = [(f"i{item}", f"Title {item}", KINDS[item % 2]) for item in range(n_items)]
    pd.DataFrame(items, columns=["item_id", "title", "kind"]).to_csv(folder / "items.csv", index=False)


def music_config(folder) -> RunConfig:
    rated_world(folder)
    return RunConfig.model_validate(
        {
            "prepare": {
                "source": "files",
                "interactions": str(folder / "events.csv"),
                "items": str(folder / "items.csv"),
                "exclude_seen": False,
                "split": {"test_fraction": 0.2, "validation_fraction": 0.15, "personalize_fraction": 0.5},
            },
            "embed": {
                "lightgcn": {"dim": 16, "epochs": 40, "batch": 256, "negatives": 32},
                "text_encoder": None,
            },
            "tokenize": {"quantizer": "residual_kmeans", "size": 8},
            "adapt": {
                "backbone": {"name": "tiny-random", "device": "cpu"},
                "prompts": {"recent_items": 2},
                "steps": 240,
                "batch": 8,
                "window_items": 6,
                "words_batch": 32,
                "learning_rate": 3e-3,
                "rows_learning_rate": 1e-2,
                "validate_every": 120,
                "warmup": 5,
            },
            "personalize": {
                "steps": 10,
                "learning_rates": [1e-2],
                "methods": [{"key": "e2p", "bottleneck": 8}],
            },
            "evaluate": {"bootstrap_samples": 200, "max_instances": 40, "beam_columns": False},
            "engagement": {"max_shown": 6},
            "align": {
                "steps": 120,
                "batch": 32,
                "learning_rates": [1e-2],
                "validate_every": 20,
                "watched_requests": 20,
            },
            "music": {"n": 5, "text_encoder": "backbone", "rerank_from": 15, "validation_instances": 400},
        }
    )


@pytest.fixture(scope="module")
def music_run(tmp_path_factory) -> tuple[RunConfig, Run]:
    folder = tmp_path_factory.mktemp("music")
    config, run = music_config(folder), Run.create(folder / "run")
    with open(folder / "printed.txt", "w") as printed:
        run_all(config, run, console=Console(file=printed, width=200))
    return config, run


def table_of(run: Run) -> dict:
    return run.read_json("music", "music.json")["table"]


def row_of(run: Run, name: str) -> dict:
    return next(row for row in table_of(run)["rows"] if row["name"] == name)


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
    assert above["E2P-Random (KTO)"] < 0.55  # another user's taste says nothing
    assert (
        row_of(run, "E2P-Random (KTO)")["engagement"]["value"]
        < row_of(run, "E2P (KTO)")["engagement"]["value"] - 0.05
    )


def test_lists_are_distinct_available_and_those_that_the_method_gives(music_run):
    config, run = music_run
    rows = pq.ParquetFile(run.path / "music" / "lists.parquet").read().to_pandas()
    sizes = rows.groupby(["row", "replica", "request"], observed=True)["item_id"].agg(["size", "nunique"])
    assert (sizes["size"] == sizes["nunique"]).all()
    assert (sizes["size"] == 5).all()
    lists, data = ShownLists.load(run), Dataset.load(run)
    request = lists.requests(lists.of(TEST_LISTS)[:1], data)[0]
    asked = Recommender.load(run.path).method("e2p_kto").recommend([request], 5, 1.0, config.music.seed)[0]
    own = rows[(rows["row"] == "E2P (KTO)") & (rows["request"] == 0)].sort_values("rank")
    assert own["item_id"].tolist() == [data.catalogue.item_ids[item] for item in asked.items]


def test_a_query_is_understood(music_run):
    """The lists of `recommend` carry the query's word far more often than without it, for every method that generates."""
    _, run = music_run
    recommender, data = Recommender.load(run.path), Dataset.load(run)
    kind = {
        str(item): data.catalogue.columns["kind"][number][0]
        for number, item in enumerate(data.catalogue.item_ids)
    }
    for method in ("no_context", "e2p", "e2p_lm"):
        with_query, without = [], []
        for user in range(8):
            for query in KINDS:
                asked = recommender.recommend(f"u{user}", query, 5, method=method)
                plain = recommender.recommend(f"u{user}", None, 5, method=method)
                with_query.append(np.mean([kind[item.item_id] == query for item in asked]))
                without.append(np.mean([kind[item.item_id] == query for item in plain]))
        assert np.mean(with_query) > np.mean(without) + 0.2, method
    lists = {
        (user, query): [i.item_id for i in recommender.recommend(user, query, 5)]
        for user in ("u1", "u2")
        for query in KINDS
    }
    assert lists["u1", "even"] != lists["u1", "odd"]
    assert lists["u1", "even"] != lists["u2", "even"]


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
    with pytest.raises(KeyboardInterrupt):
        run_stage("music", config, again)
    assert again.record("music") is None
    run_stage("music", config, again)
    # align's rows, two E2P-Random of five permutations, No Context and Embedding Reranking
    replicas = 5 + 2 * 5 + 2
    blocks = -(-table_of(run)["n_requests"] // BLOCK)
    assert len(calls) == replicas * blocks + 1  # only the block that died is measured again
    assert again.record("music")["artifacts"] == run.record("music")["artifacts"]


def test_a_deleted_person_is_gone_from_lists_and_table_and_the_rest_stands(music_run, tmp_path):
    _, run = music_run
    shutil.copytree(run.path, tmp_path / "run")
    other = Run.open(tmp_path / "run")
    before, data = ShownLists.load(other), Dataset.load(other)
    user = int(before.users[before.of(GENERATOR)[0]])
    delete(other, str(data.user_ids[user]))
    after = ShownLists.load(Run.open(tmp_path / "run"))
    kept = np.flatnonzero(before.users != user)
    assert user not in after.users
    assert len(after) == len(kept)
    for new, old in enumerate(kept):
        assert after.queries[new] == before.queries[old]
        assert all((a == b).all() for a, b in zip(after.shown(new), before.shown(int(old)), strict=True))
    rows = pq.ParquetFile(other.path / "music" / "lists.parquet").read()["user"].to_numpy()
    assert user not in rows
    assert len(rows)


def test_stages_that_are_missing_are_named(tmp_path):
    config, run = music_config(tmp_path), Run.create(tmp_path / "run")
    run_all(config, run, until="embed", console=Console(quiet=True))
    with pytest.raises(RunError, match=r"needs stage .tokenize."):
        run_stage("align", config, run)
    with pytest.raises(ValueError, match=r"which align\.rows does not train"):
        RunConfig.model_validate({"engagement": {}, "music": {"primary": "nobody"}})


def test_reranking_keeps_the_nearest_of_what_no_context_draws(music_run):
    _, run = music_run
    recommender, data = Recommender.load(run.path), Dataset.load(run)
    methods = recommender.methods
    lists = ShownLists.load(run)
    requests = lists.requests(lists.of(TEST_LISTS)[:6], data)
    plain = recommender.method("no_context")
    drawn = plain.recommend(requests, 15, 1.0, 3)
    found = Reranking(plain, methods, 15).recommend(requests, 5, 1.0, 3)
    vectors, known = methods.users.vectors(requests)
    items = load_item_vectors(run)["collaborative"]
    assert known.all()
    for vector, candidates, answer in zip(vectors, drawn, found, strict=True):
        by_hand = sorted(candidates.items, key=lambda item: -float(items[item] @ vector))[:5]
        assert answer.items.tolist() == by_hand


def test_engaged_above_not_is_the_auc_within_a_list():
    """Lists {.9 liked, .5 not, .7 liked}, {.1 liked, .1 not} and one with a single kind."""
    scores = np.array([0.9, 0.5, 0.7, 0.1, 0.1, 0.3])
    labels = np.array([True, False, True, True, False, True])
    assert liked_above(scores, labels, np.array([0, 3, 5, 6])).tolist()[:2] == [1.0, 0.5]
    assert np.isnan(liked_above(scores, labels, np.array([0, 3, 5, 6]))[2])
    assert liked_above(-scores, labels, np.array([0, 3])).tolist() == [0.0]


def test_unknown_users_count_one_by_one():
    assert units(np.array([3, -1, 3, -1])).tolist() == [3, -2, 3, -4]


def test_the_files_of_the_stage_read_back(music_run):
    _, run = music_run
    align = json.loads((run.path / "align" / "align.json").read_text())
    assert align["frozen_hash_before"] == align["frozen_hash_after"]
    assert set(align["rows"]) == {
        "static_prefix_lm-0", "static_prefix_kto-0", "e2p_lm-0", "e2p_engagement-0", "e2p_kto-0"
    }  # fmt: skip
    assert run.read_json("adapt", "adapt.json")["queries"]["seen"]["with_query"] > 0


def test_a_row_of_another_name_keeps_its_random_row_apart(music_run):
    config, _ = music_run
    named = {"rows": [{"method": "e2p", "key": "e2p_lm", "name": "Personal"}], "watched_requests": 20}
    other = config.model_copy(update={"align": AlignConfig.model_validate(named)})
    music = config.music.model_copy(update={"primary": "e2p_lm", "control": "e2p_lm"})
    work = MusicTable.__new__(MusicTable)
    work.config, work.align = music, other.align
    assert work._random_name("e2p_lm") == "Personal, another user's vector"


def test_playlists_by_a_row_that_kto_trained(music_run, tmp_path):
    _, run = music_run
    table = pa.table({"request_id": ["a", "b"], "user_id": ["u1", "u2"], "query": ["even", "odd"]})
    pq.write_table(table, tmp_path / "requests.parquet")
    settings = Settings(n=5, method="e2p_kto", temperature=0.0)
    playlists(run.path, tmp_path / "requests.parquet", tmp_path / "out", LocalEngine(1), settings, quiet=True)
    (path,) = (tmp_path / "out" / "playlists").iterdir()
    found = pq.read_table(path)["item_id"].to_pylist()
    lists = [Recommender.load(run.path).recommend(user, query, 5, method="e2p_kto")
             for user, query in (("u1", "even"), ("u2", "odd"))]  # fmt: skip
    assert found == [item.item_id for some in lists for item in some]


def test_own_lists_switch_the_section_on(tmp_path):
    base = RunConfig().model_dump(mode="json")
    assert base["engagement"] is None
    config = load_config(None, ["engagement.lists=shown.csv"], base)
    assert str(config.engagement.lists) == "shown.csv"
    assert stages_of(config)[-3:] == PLAYLIST_STAGES
    with pytest.raises(ValueError, match="seed is not a section"):
        load_config(None, ["seed.lists=shown.csv"], base | {"seed": 3})


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
