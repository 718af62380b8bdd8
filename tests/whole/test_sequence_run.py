"""A run whose generator is conditioned on SASRec: its vectors, its leaks, and runs without it."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.splits import FIT, PERSONALIZE, VALIDATION
from recsys.embeddings import sequence_parts
from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.embed import (
    embed,
    load_conditioning_items,
    load_item_vectors,
    load_retrieval,
    load_user_vectors,
)
from recsys.embeddings.leaks import Events, LeakError, check_planted_answer
from recsys.embeddings.sasrec import (
    Ranking,
    ndcg_at,
    train_sasrec,
)
from recsys.embeddings.summary import print_summary
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.products import experts_of
from serving.config.combine import CombineConfig
from serving.stages.evaluate import _question
from tests.support.worlds import small_config

# -- in a run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sequence_run(small_run, tmp_path_factory):
    """The small run's data, its generator conditioned on SASRec."""
    config, run = small_run
    other = Run.create(tmp_path_factory.mktemp("sequence") / "run")
    shutil.copytree(run.path / "prepare", other.path / "prepare")
    settings = config.embed.model_copy(update={"users_from": "sasrec", "refit_for_retrieval": False})
    embed(settings, other)
    return settings, other


def test_the_generators_vectors_are_of_a_sasrec_that_saw_fit_alone(sequence_run, tmp_path):
    settings, run = sequence_run
    report, data, users = run.read_json("embed", "embed.json"), Dataset.load(run), load_user_vectors(run)
    assert users.space == report["space"]
    assert users.space.startswith("sasrec:")
    assert users.dim == report["dim"] == 16
    assert isinstance(report["leak_check"], dict)
    learned, held_out = data.roles == FIT, data.events(VALIDATION)
    events = (data.users[learned], data.items[learned], data.times[learned])
    ranking = Ranking(data.requests(held_out, data.exclude_seen), data.items[held_out], 50)
    model, _ = train_sasrec(*events, data.n_items, settings.sasrec, settings.seed, tmp_path, ranking)
    np.testing.assert_array_equal(load_conditioning_items(run), model.item_table().numpy())
    ndcg = report["sasrec_users"]["validation_ndcg@10"]
    assert ndcg == pytest.approx(ndcg_at(ranking.ranks(model), 10))
    assert report["sasrec_retrieval"]["validation_ndcg@10"] != ndcg


def test_semantic_ids_and_the_retrieval_row_go_on_with_lightgcn(sequence_run, small_run):
    _, run = sequence_run
    ours, data = load_item_vectors(run)["collaborative"], Dataset.load(run)
    np.testing.assert_array_equal(ours, load_item_vectors(small_run[1])["collaborative"])
    retrieval = load_retrieval(run, data)
    assert isinstance(retrieval.users, HistoryVectors)
    np.testing.assert_array_equal(retrieval.items, ours)


def test_the_planted_answer_changes_no_vector(sequence_run):
    _, run = sequence_run
    data, users = Dataset.load(run), load_user_vectors(run)
    event = int(data.events(3)[0])
    user, time, target = int(data.users[event]), int(data.times[event]), int(data.items[event])

    def build(events: Events) -> dict[str, np.ndarray]:
        before = (events.users == user) & (events.times < time)
        return {"vector": users.of_histories([events.items[before]])[0]}

    check_planted_answer(build, Events(data.users, data.items, data.times), user, time, target)


def test_a_sasrec_that_was_trained_on_the_targets_stops_the_run(tmp_path, monkeypatch):
    """Items without any order: what finds a training target has learned it by heart."""
    config = small_config(tmp_path)
    generator = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{generator.integers(60)}", 1000 * step) for u in range(40) for step in range(24)]
    pd.DataFrame(rows, columns=["uid", "iid", "ts"]).to_csv(config.prepare.interactions, index=False)
    run = Run.create(tmp_path / "run")
    prepare(config.prepare, run)
    by_heart = {"dim": 32, "steps": 100, "dropout": 0.0, "learning_rate": 1e-2, "validate_every": 100}
    sasrec = config.embed.sasrec.model_copy(update=by_heart)
    settings = config.embed.model_copy(update={"users_from": "sasrec", "sasrec": sasrec})
    monkeypatch.setattr("recsys.embeddings.embed.K", 5)
    embed(settings, run)  # without the leak the same settings pass
    shutil.rmtree(run.path / "embed")
    monkeypatch.setitem(sequence_parts.ROLES, "sasrec_users", (FIT, PERSONALIZE))
    with pytest.raises(LeakError, match="training targets"):
        embed(settings, run)
    assert not (run.path / "embed").exists()


def test_a_run_without_a_sasrec_says_so(small_run):
    config, run = small_run
    without = config.model_copy(update={"embed": config.embed.model_copy(update={"sasrec": None})})
    assert "sasrec" not in Methods(run, without).available()
    assert "sasrec" in Methods(run, config).available()
    with pytest.raises(ValueError, match="no method 'sasrec'"):
        Methods(run, without).build("sasrec")


def test_a_report_without_the_rows_is_refused_with_the_remedy(small_run, monkeypatch):
    config, run = small_run
    methods, read = Methods(run, config), run.read_json

    def older(stage: str, name: str):
        found = read(stage, name)
        return {key: found[key] for key in found if key not in ("item_knn", "sasrec_retrieval")}

    monkeypatch.setattr(run, "read_json", older)
    with pytest.raises(RunError, match=r"set embed\.sasrec"):
        methods.build("sasrec")
    with pytest.raises(RunError, match="older than item-kNN"):
        methods.build("item_knn")


@pytest.fixture(scope="module")
def shared_run(small_run, tmp_path_factory):
    """The small run's data, one SASRec for the generator and its own row, and no item-kNN."""
    config, run = small_run
    other = Run.create(tmp_path_factory.mktemp("shared") / "run")
    shutil.copytree(run.path / "prepare", other.path / "prepare")
    update = {"users_from": "sasrec", "sasrec_row": "users", "item_knn": None, "refit_for_retrieval": False}
    settings = config.embed.model_copy(update=update)
    embed(settings, other)
    return config.model_copy(update={"embed": settings}), other


def test_one_sasrec_may_be_both_and_is_then_of_fit_alone(shared_run, sequence_run):
    config, run = shared_run
    report = run.read_json("embed", "embed.json")
    assert "sasrec_retrieval" not in report
    assert not (run.path / "embed" / "sasrec_retrieval.safetensors").exists()
    weights = [
        (one.path / "embed" / "sasrec_users.safetensors").read_bytes() for one in (run, sequence_run[1])
    ]
    assert weights[0] == weights[1]  # the generator's, trained as it is beside another
    row, users = Methods(run, config).build("sasrec"), load_user_vectors(run)
    history = [np.array([3, 5, 8])]
    logits, unit = (side.of_histories(history)[0] for side in (row.users, users))
    np.testing.assert_allclose(logits / np.linalg.norm(logits), unit, rtol=1e-5)
    with pytest.raises(ValueError, match="sasrec_row: users needs users_from: sasrec"):
        EmbedConfig(sasrec_row="users", sasrec=config.embed.sasrec)


def test_the_rows_models_may_go_on_from_the_generators(small_run, sequence_run, tmp_path):
    config, run = small_run
    other = Run.create(tmp_path / "run")
    shutil.copytree(run.path / "prepare", other.path / "prepare")
    update = {"users_from": "sasrec", "refit": "continued", "refit_share": 0.5, "item_knn": None}
    settings = config.embed.model_copy(update=update)
    embed(settings, other)
    generators = [one.path / "embed" / "sasrec_users.safetensors" for one in (other, sequence_run[1])]
    assert (
        generators[0].read_bytes() == generators[1].read_bytes()
    )  # what conditions the generator is as ever
    curves, ours = other.read_json("embed", "curves.json"), settings.shortened(settings.sasrec)
    assert ours.steps == round(0.5 * settings.sasrec.steps)
    assert curves["SASRec for retrieval"]["losses"][-1][0] <= ours.steps
    epochs = settings.shortened(settings.lightgcn).epochs
    assert epochs == round(0.5 * settings.lightgcn.epochs)
    # it begins where the other ended, and learns from more: nearer to it than a model from another start
    before, after = [
        load_file(one)["item_table"]
        for one in (generators[0], other.path / "embed" / "sasrec_retrieval.safetensors")
    ]
    anew = load_file(sequence_run[1].path / "embed" / "sasrec_retrieval.safetensors")["item_table"]
    assert 0 < (after - before).norm() < (anew - before).norm()


def test_item_knn_may_be_left_out_and_that_is_said(shared_run, capsys):
    config, run = shared_run
    assert run.read_json("embed", "embed.json")["item_knn"] is None
    print_summary(run.read_json("embed", "embed.json"))
    assert "no item-kNN (embed.item_knn: null)" in capsys.readouterr().out
    methods = Methods(run, config)
    assert "item_knn" not in methods.available()
    with pytest.raises(ValueError, match="no method 'item_knn'"):
        methods.build("item_knn")
    with pytest.raises(RunError, match=r"has no item-kNN; set embed\.item_knn"):
        sequence_parts.load_item_knn(run, methods.dataset, None)
    assert _question(methods)[1]["left_out"] == "Item-kNN (embed.item_knn: null)"
    experts = config.model_copy(update={"combine": CombineConfig(experts=("item_knn",))})
    with pytest.raises(ValueError, match=r"combine\.experts: this run has no item_knn"):
        experts_of(Methods(run, experts), experts.combine, None)
