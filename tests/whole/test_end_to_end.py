"""A whole run on the world of two tastes: artifacts, table, kills, leaks put back, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel

from llm.backbone.load import load_backbone, weights_hash
from llm.methods.catalogue import CATALOGUE
from llm.methods.personalize import load_method
from llm.stage1.model import load_adapted
from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE
from recsys.embeddings.embed import embed, load_user_vectors
from recsys.embeddings.leaks import LeakError
from recsys.run import Run
from recsys.training import loop
from serving.answering.methods import Methods
from serving.pipeline import run_all, run_stage
from serving.stages.names import STAGES
from tests.support.contract import check_contract, contract_requests

ROWS = [
    "Popularity", "Item-kNN", "Item-kNN (softmax)", "Embedding Retrieval", "Embedding Retrieval (softmax)", "SASRec",
    "SASRec (softmax)", "No Context", "No Context, continued",
    "Static Prefix", "E2P-Random", "E2P", "Prompt Context", "RAG, k = 2", "PAG, k = 2", "Full History", "E2P + Prompt",
    "MT-LoRA", "OPPU, LoRA", "OPPU, IA3", "OPPU, prompt tuning", "OPPU, LoRA + RAG", "OPPU, LoRA + PAG", "PER-PCS", "TAP-PER",
    "TAP-PER, P_q only", "Bridge only", "E2P + P_q", "P2P", "P2P, summary only",
]  # fmt: skip


def test_the_table_has_every_row_with_its_interval(small_run):
    _, run = small_run
    results = json.loads((run.path / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == ROWS
    for row in results["rows"]:
        low, high = row["ci95"]
        assert row["top30"] is not None
        figure = row["top30"] if row["expected_hit_rate@30"] is None else row["expected_hit_rate@30"]
        # the interval is that of the row's own figure
        assert low - 1e-9 <= figure <= high + 1e-9, row["name"]
        draws = row["name"] not in ("Popularity", "Item-kNN", "Embedding Retrieval", "SASRec")
        assert (row["expected_hit_rate@30"] is not None) == draws
        if draws:
            assert abs(row["sampled_minus_expected_z"]) < 4, row["name"]
    assert results["primary"]["a"] == "E2P"
    assert results["primary"]["b"] == "Static Prefix"
    (active,) = results["groups"]["activity"]  # everybody has 24 events, the last few of them tested
    assert (active["group"], active["n_users"]) == ("20-49", results["rows"][0]["n_users"])
    assert set(results["references"]) == {"Static Prefix", "No Context", "E2P"}
    report = (run.path / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 4


@pytest.mark.usefixtures("data_files")
def test_nothing_runs_twice(small_run, capsys):
    config, run = small_run
    before = {name: (run.path / name / "stage.json").stat().st_mtime_ns for name in STAGES}
    run_all(config, run)
    assert {name: (run.path / name / "stage.json").stat().st_mtime_ns for name in STAGES} == before
    assert capsys.readouterr().out.count("not run again") == len(STAGES)


def test_the_backbone_stayed_frozen_and_the_budget_is_printed(small_run):
    config, run = small_run
    report = run.read_json("personalize", "personalize.json")
    assert report["frozen_hash_before"] == report["frozen_hash_after"]
    assert report["frozen_hash_before"] == weights_hash(load_adapted(run, config.adapt))
    assert run.read_json("adapt", "adapt.json")["backbone_hash"] == weights_hash(
        load_backbone(config.adapt.backbone).model
    )
    d, c, h = 16, 8, 64
    assert report["methods"]["e2p-0"]["trainable_parameters"] == d * c + 2 * c + c * h + h


def test_the_adapter_is_pefts_own_and_merging_changes_no_hidden_state(small_run):
    config, run = small_run
    merged = load_adapted(run, config.adapt)
    backbone = load_backbone(config.adapt.backbone)
    peft = PeftModel.from_pretrained(backbone.model, str(run.path / "adapt" / "adapter"))
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = load_backbone(config.adapt.backbone).model(inputs_embeds=x).last_hidden_state
        ours = merged.inner(inputs_embeds=x).last_hidden_state
        theirs = peft(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (ours - plain).abs().max() > 1e-3  # the adapter does something


def test_stage_2_and_the_graph_learn_from_different_events(small_run):
    _, run = small_run
    data = Dataset.load(run)
    fit, late = data.events(FIT), data.events(PERSONALIZE)
    assert len(fit)
    assert len(late)
    last_fit = np.full(data.n_users, -1)
    np.maximum.at(last_fit, data.users[fit], data.times[fit])
    assert (data.times[late] > last_fit[data.users[late]]).all()


@pytest.mark.parametrize(
    "method", ["no_context", "embedding_retrieval", "popularity", "item_knn", "sasrec", *CATALOGUE]
)
def test_every_method_keeps_the_contract(small_run, method):
    config, run = small_run
    methods = Methods(run, config)
    check_contract(methods.build(method), contract_requests(60), 60, tolerance=1e-4)


def test_generation_has_learned_the_two_tastes(small_run):
    """E2P's draws for a user of the even half are even far above chance, though the prompt shows two items only."""
    config, run = small_run
    methods = Methods(run, config)
    data = methods.dataset
    requests = [data.request(int(event), False) for event in data.events(3)]
    items, _ = methods.build("e2p").draw(requests, 50, 1.0, seed=0)
    kinds = np.array([int(item_id[1:]) % 2 for item_id in data.catalogue.item_ids])
    own = np.array([int(data.user_ids[request.user][1:]) % 2 for request in requests])
    assert (kinds[items] == own[:, None]).mean() > 0.9


# -- kills ------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("stage", "every"), [("embed", 2), ("tokenize", 2), ("adapt", 2), ("personalize", 7)]
)
def test_a_stage_killed_again_and_again_ends_in_the_same_bytes(
    small_run, tmp_path, monkeypatch, stage, every
):
    """Killed at the first save and at every second or seventh from then on: of the many trainings of `personalize` some at their
    first save, some in the middle and some at their last.
    """
    config, run = small_run
    other = Run.create(tmp_path / "copy")
    for name in STAGES[: STAGES.index(stage)]:
        shutil.copytree(run.path / name, other.path / name)
    save, count = loop._save, 0

    def save_then_die(*arguments):
        nonlocal count
        save(*arguments)
        count += 1
        if count % every == 1:
            raise Killed

    monkeypatch.setitem(loop.fit.__kwdefaults__, "checkpoint_every_s", 0.0)
    monkeypatch.setattr(loop, "_save", save_then_die)
    kills = 0
    while True:
        try:
            run_stage(stage, config, other)
            break
        except Killed:
            kills += 1
            assert not (other.path / stage).exists()
            assert kills < 200
    assert kills >= 1
    assert other.record(stage)["artifacts"] == run.record(stage)["artifacts"]


@pytest.mark.usefixtures("unpublished")
def test_an_evaluation_killed_halfway_ends_in_the_same_figures(small_run, tmp_path, monkeypatch):
    config, run = small_run
    other = Run.create(tmp_path / "copy")
    for name in STAGES[:-1]:
        shutil.copytree(run.path / name, other.path / name)
    from llm.decoding.recommender import SidRecommender

    draw, count = SidRecommender.draw, 0

    def dying(self, *arguments, **settings):
        nonlocal count
        count += 1
        if count == 9:
            raise Killed
        return draw(self, *arguments, **settings)

    monkeypatch.setattr(SidRecommender, "draw", dying)
    # costs are timings, which no two evaluations share
    monkeypatch.setattr("serving.stages.evaluate.measure_costs", lambda *given: {"rows": {}})
    with pytest.raises(Killed):
        run_stage("evaluate", config, other)
    run_stage("evaluate", config, other)
    figures = [where.path / "evaluate" / "results.json" for where in (other, run)]
    assert figures[0].read_bytes() == figures[1].read_bytes()


def short_sasrec(config):
    """For tests of the stage `embed` that are not about it."""
    return config.embed.sasrec.model_copy(update={"steps": 4, "validate_every": 4})


# -- leaks and refusals -----------------------------------------------------------------------------------------


def test_the_leak_check_stops_a_run_whose_vectors_hold_their_targets(small_run, tmp_path, monkeypatch):
    """Put the leak back: let every request's history hold its own target, on training rows only."""
    config, run = small_run
    other = Run.create(tmp_path / "copy")
    shutil.copytree(run.path / "prepare", other.path / "prepare")
    honest = Dataset.block

    def leaking(self, events, exclude_seen):
        from dataclasses import replace

        made = honest(self, events, exclude_seen)
        for at, event in enumerate(events):
            if self.roles[event] == PERSONALIZE:
                target = np.full(20, self.items[event])
                made[at] = replace(made[at], history=np.concatenate([made[at].history, target]))
        return made

    leaky = config.embed.model_copy(update={"user_half_lives": (None,), "sasrec": short_sasrec(config)})
    monkeypatch.setattr("recsys.embeddings.embed.K", 3)
    embed(leaky, other)  # without the leak the same settings pass
    shutil.rmtree(other.path / "embed")
    monkeypatch.setattr(Dataset, "block", leaking)
    with pytest.raises(LeakError, match="training targets"):
        embed(leaky, other)
    assert not (other.path / "embed").exists()


def test_a_prefix_of_another_table_or_another_space_is_refused_by_name(small_run, monkeypatch):
    config, run = small_run
    methods = Methods(run, config)
    e2p = config.personalize.method("e2p")
    load_method(methods.world, e2p, 0)
    methods.users.space = "a retrained GNN"
    with pytest.raises(RunError, match="a retrained GNN"):
        load_method(methods.world, e2p, 0)
    read = methods.run.read_json
    monkeypatch.setattr(
        methods.run,
        "read_json",
        lambda stage, name: read(stage, name) | ({"table_hash": "0"} if stage == "adapt" else {}),
    )
    with pytest.raises(RunError, match="another semantic-ID table"):
        load_method(methods.world, e2p, 0)


def test_brought_embeddings_replace_the_gnn(small_run, tmp_path):
    config, run = small_run
    other = Run.create(tmp_path / "copy")
    shutil.copytree(run.path / "prepare", other.path / "prepare")
    data = Dataset.load(run)
    generator = np.random.default_rng(0)
    taste = np.array([[1.0, 0.2], [0.2, 1.0]])
    rows = [
        (
            user_id,
            1_000_000 + 1000 * step + int(user_id[1:]),
            taste[int(user_id[1:]) % 2] + 0.1 * generator.normal(size=2),
        )
        for user_id in data.user_ids
        for step in range(24)
    ]
    pd.DataFrame(rows, columns=["user_id", "timestamp", "vector"]).to_parquet(tmp_path / "u.parquet")
    items = [
        (item_id, taste[int(item_id[1:]) % 2] + 0.1 * generator.normal(size=2))
        for item_id in data.catalogue.item_ids
    ]
    pd.DataFrame(items, columns=["item_id", "vector"]).to_parquet(tmp_path / "i.parquet")
    brought = config.embed.model_copy(
        update={
            "user_embeddings": tmp_path / "u.parquet",
            "item_embeddings": tmp_path / "i.parquet",
            "embedding_space": "v7",
            "sasrec": short_sasrec(config),
        }
    )
    embed(brought, other)
    report = other.read_json("embed", "embed.json")
    assert (report["users"], report["items"], report["space"]) == ("brought", "brought", "v7")
    assert "lightgcn" not in report
    users = load_user_vectors(other)
    vectors, known = users.vectors([data.request(int(event), False) for event in data.events(3)[:4]])
    assert known.all()
    assert vectors.shape == (4, 2)


def test_a_decoder_from_scratch_is_trained_whole_then_frozen(small_run, tmp_path):
    config, run = small_run
    backbone = config.adapt.backbone.model_copy(update={"name": "scratch", "scratch_hidden": 32, "layers": 1})
    with pytest.raises(ValueError, match="a random model has to be trained whole"):
        run_stage(
            "adapt",
            config.model_copy(update={"adapt": config.adapt.model_copy(update={"backbone": backbone})}),
            run,
        )
    adapt = config.adapt.model_copy(update={"backbone": backbone, "train": "full", "steps": 20})
    chosen = tuple(config.personalize.method(key) for key in ("e2p", "no_context_continued"))
    personal = config.personalize.model_copy(update={"steps": 5, "seeds": (0, 1), "methods": chosen})
    changed = config.model_copy(update={"adapt": adapt, "personalize": personal})
    other = Run.create(tmp_path / "copy")
    for name in STAGES[:3]:
        shutil.copytree(run.path / name, other.path / name)
    run_stage("adapt", changed, other)
    run_stage("personalize", changed, other)
    model = load_adapted(other, adapt)
    start = load_backbone(backbone).model
    assert weights_hash(model.inner) != weights_hash(start)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    methods = Methods(other, changed)
    check_contract(methods.build("e2p", seed=1), contract_requests(60), 60, tolerance=1e-4)
    continued = methods.build("no_context_continued", seed=1)
    assert weights_hash(continued.model.inner) != weights_hash(model.inner)
