"""The lists of the music task: understood queries, deletion, reranking, playlists."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from evaluation.music.metrics import liked_above
from llm.align.config import AlignConfig
from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.embeddings.embed import load_item_vectors
from recsys.engagement.shown_lists import GENERATOR, TEST_LISTS, ShownLists
from recsys.run import Run
from serving.answering.recommender import Recommender
from serving.config.run import RunConfig, load_config
from serving.engines.local import LocalEngine
from serving.pipeline import run_all, run_stage, stages_of
from serving.playlists.job import playlists
from serving.playlists.plan import Settings
from serving.stages.listener import units
from serving.stages.music import MusicTable
from serving.stages.names import PLAYLIST_STAGES
from serving.stages.reranking import Reranking
from serving.user_state import delete
from tests.support.music import KINDS, music_config


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
