"""A whole run whose items are one vector in and a depth head out: every kind of method, answers, exports, alignment, resuming."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from evaluation.metrics import expected_hit
from evaluation.statistics import user_means
from llm.align.align import align, load_aligned
from llm.align.config import AlignConfig
from llm.decoding.recommender import SidRecommender
from llm.decoding.scoring import constraints_of
from llm.methods.stage2 import World
from llm.stage1.adapt import adapt
from llm.stage1.model import load_adapted
from recsys.artifacts.paths import RunError
from recsys.data.splits import TEST, VALIDATION
from recsys.run import Run
from serving import Recommender
from serving.answering.methods import Methods
from serving.config.run import RunConfig
from serving.export.folder import export_run, import_run
from serving.studies.context_length import (
    NONE,
    OTHER,
    OWN,
    TEMPERATURES,
    analyse_context,
    folder_of,
    print_context,
)
from serving.studies.twins import analyse_twins, together
from tests.support.alignment import E2P, QUICK, STATIC
from tests.support.contract import check_contract
from tests.support.dying import killed_at_save, save_at_every_step
from tests.support.labelled import with_lists
from tests.support.worlds import SMALL_METHODS, run_of, shared_run, small_config

FORM = {
    "items": "vector",
    "head": "depth",
    "head_width": 32,
    "item_projection": True,
    "head_asks": "joined",
    "head_asks_dims": 5,
}
SOFT = {"soft_batch": 6, "soft_bottleneck": 8}
TAUGHT = {"taught_batch": 6, "validation_instances": 20}
KEYS = ["no_context_continued", "static_prefix", "e2p", "rag", "oppu_prompt", "per_pcs", "tap_per", "p2p"]


@pytest.fixture(scope="module")
def vector_run(tmp_path_factory):
    def make(folder) -> None:
        values = small_config(folder).model_dump(mode="json")
        values["adapt"] |= FORM | SOFT | TAUGHT | {"prompts": values["adapt"]["prompts"] | {"header": ""}}
        named = {one if isinstance(one, str) else one["key"]: one for one in SMALL_METHODS}
        values["personalize"] |= {
            "methods": [named[key] for key in KEYS],
            "steps": 20,
            "learning_rates": [1e-2],
        }
        values["evaluate"] |= {"random_permutations": 1}
        run_of(RunConfig.model_validate(values), folder)

    with shared_run(tmp_path_factory, "vector_run", make) as found:
        yield found


@pytest.fixture(scope="module")
def methods(vector_run) -> Methods:
    config, run = vector_run
    return Methods(run, config)


def test_the_run_has_every_row_and_says_what_its_parts_are(vector_run):
    config, run = vector_run
    report = run.read_json("adapt", "adapt.json")
    assert report["head_parameters"] > 0
    assert report["phi_parameters"] == 8 * (16 + 2 + 64) + 64
    assert report["reader_parameters"] == 64 * len(load_adapted(run, config.adapt).reader.vectors[0])
    rows = json.loads((run.path / "results.json").read_text())["rows"]
    names = {row["name"] for row in rows}
    assert {"No Context", "E2P", "TAP-PER", "P2P", "PER-PCS", "OPPU, prompt tuning"} <= names
    before, after = (
        run.read_json("personalize", "personalize.json")[f"frozen_hash_{when}"]
        for when in ("before", "after")
    )
    assert before == after


@pytest.mark.parametrize("key", ["no_context", "e2p", "per_pcs"])
def test_it_keeps_the_contract_of_every_recommender(methods, key):
    data = methods.dataset
    requests = data.requests(data.events(TEST)[::17][:4], True)
    check_contract(methods.build(key), requests, data.n_items, tolerance=1e-4)


@pytest.mark.parametrize("key", ["no_context", "e2p", "tap_per", "p2p", "oppu_prompt"])
def test_all_items_at_once_are_the_single_scores_and_sum_to_one(methods, key):
    method, data = methods.build(key), methods.dataset
    assert isinstance(method, SidRecommender)
    requests = data.requests(data.events(TEST)[::9][:5], True)
    scores = method.scores(requests)
    assert np.exp(scores.astype(float)).sum(1) == pytest.approx(np.ones(5), abs=1e-5)
    free = data.requests(data.events(TEST)[::9][:5], False)
    for item in (0, 7, data.n_items - 1):
        assert scores[:, item] == pytest.approx(method.log_prob(free, np.full(5, item)), abs=2e-5)


def test_a_request_reads_its_prompt_and_nothing_else(methods, monkeypatch):
    """Drawing, ranking, scoring and scores of all items: one pass over prompts of one token an item."""
    method, data = methods.build("no_context"), methods.dataset
    requests = data.block(
        data.events(TEST)[:6], True
    )  # the same objects each time: one session for all calls
    prompts = method.reading.prompts(requests)
    shown = [min(2, len(request.history)) for request in requests]
    assert [len(prompt) for prompt in prompts] == [1 + count for count in shown]
    method.model.kept_session = None
    passes, forward = [], method.model._forward
    monkeypatch.setattr(
        method.model,
        "_forward",
        lambda x, *rest, **more: (passes.append(len(x)), forward(x, *rest, **more))[1],
    )
    method.recommend(requests, 10, 1.0, seed=1)
    method.draw(requests, 10)
    method.recommend(requests, 10)
    method.log_prob(requests, np.zeros(6, np.int64))
    assert passes == [sum(map(len, prompts))]


def test_a_damaged_head_and_one_of_another_form_are_refused(vector_run, tmp_path):
    config, run = vector_run
    wrong = shutil.copytree(run.path, tmp_path / "codes")
    record = json.loads((wrong / "adapt" / "stage.json").read_text())
    del record["artifacts"]["head.safetensors"]
    (wrong / "adapt" / "stage.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"made no artifact 'head\.safetensors'"):
        load_adapted(Run.open(wrong), config.adapt)
    broken = tmp_path / "broken"
    shutil.copytree(run.path, broken)
    path = broken / "adapt" / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(RunError, match=r"head\.safetensors does not match its hash"):
        load_adapted(Run.open(broken), config.adapt)


def test_a_killed_stage_1_ends_in_the_same_bytes(vector_run, tmp_path, monkeypatch):
    config, run = vector_run
    changes = {"dropout": 0.2, "label_smoothing": 0.1, "steps": 8, "validate_every": 4, "asked_queries": 0}
    settings = config.adapt.model_copy(update=changes)
    save_at_every_step(monkeypatch)
    made = []
    for name in ("whole", "killed"):
        copy = Run.open(shutil.copytree(run.path, tmp_path / name))
        if name == "killed":
            with killed_at_save(monkeypatch, 3):
                adapt(settings, copy)
        adapt(settings, copy)
        names = ("head", "sid_rows", "phi")
        made.append([(copy.path / "adapt" / f"{name}.safetensors").read_bytes() for name in names])
    assert made[0] == made[1]
    assert made[0][0] != (run.path / "adapt" / "head.safetensors").read_bytes()


def test_an_imported_export_answers_to_the_bit_and_lists_in_sequence(vector_run, tmp_path):
    _, run = vector_run
    export_run(run.path, tmp_path / "out", ["e2p", "tap_per"])
    import_run(tmp_path / "out", tmp_path / "run")
    services = [Recommender.load(path) for path in (run.path, tmp_path / "run")]
    for method in ("no_context", "e2p", "tap_per"):
        for options in ({"n": 6}, {"n": 5, "temperature": 1.0, "seed": 7, "query": "odd"}):
            one, other = (service.recommend("u3", method=method, **options) for service in services)
            assert one == other
    held = services[1].methods.build("e2p")
    data = services[1].methods.dataset
    requests = data.requests(data.events(TEST)[:3], True)
    found = held.playlist(requests, 4, 1.0, seed=2, in_sequence=True)
    scored = held.list_log_prob(requests, [ranked.items for ranked in found])
    for ranked, values in zip(found, scored, strict=True):
        assert len(set(ranked.items.tolist())) == 4
        np.testing.assert_allclose(values, ranked.scores, atol=1e-4)


def test_twins_are_the_tables_figures_measured_in_other_ways(vector_run, tmp_path):
    """In this data what was had comes again, so the table sets nothing aside."""
    config, run = vector_run
    methods = Methods(Run.open(shutil.copytree(run.path, tmp_path / "run")), config)
    found = analyse_twins(methods)
    table = {row["name"]: row for row in json.loads((run.path / "results.json").read_text())["rows"]}
    assert found["instances"] == table["No Context"]["n_instances"]
    for row in found["rows"]:
        if row["name"] in (
            "Popularity",
            "Item-kNN",
        ):  # ties, which lists order and ranks count against the target
            continue
        for figure in ("recall@10", "ndcg@10"):
            assert row["not set aside"][figure] == pytest.approx(table[row["name"]][figure], abs=1e-9)
            assert row["by code"][figure] >= row["not set aside"][figure]
    assert found["items_that_share_codes"] > 0
    assert any(row["by code"]["recall@10"] > row["not set aside"]["recall@10"] for row in found["rows"])
    data = methods.dataset
    events = data.events(TEST)[~data.is_repeat[data.events(TEST)]]
    lists = methods.build("no_context").recommend(data.block(events, True), 10)
    first = [float(item in one.items) for one, item in zip(lists, data.items[events], strict=True)]
    no_context = next(row for row in found["rows"] if row["name"] == "No Context")
    assert no_context["set aside"]["recall@10"] == pytest.approx(
        user_means(np.array(first), data.users[events])[1].mean()
    )
    assert json.loads((methods.run.path / "analyses/twins.json").read_text()) == json.loads(json.dumps(found))
    other = json.loads(json.dumps(found))
    for row in other["rows"]:
        row["set aside"]["recall@10"] += 0.02
    both = {row["name"]: row for row in together([found, other])}
    own = next(row for row in found["rows"] if row["name"] == "E2P")["set aside"]
    assert both["E2P"]["set aside"][0] == pytest.approx((own["recall@10"] + 0.01, 0.02 / 2**0.5))
    assert both["E2P"]["set aside"][1] == pytest.approx((own["ndcg@10"], 0.0))


def test_an_outsiders_few_lines_on_the_raw_file_find_the_figures_of_the_table(vector_run):
    """Who knows the file and `recommend` alone: each user's last tenth, asked as of its moment, hits counted by hand."""
    config, run = vector_run
    events = pd.read_csv(config.prepare.interactions).sort_values("ts", kind="stable")
    service = Recommender.load(run.path)
    table = {row["name"]: row for row in json.loads((run.path / "results.json").read_text())["rows"]}
    for key, name in (
        ("e2p", "E2P"),
        ("no_context", "No Context"),
        ("embedding_retrieval", "Embedding Retrieval"),
    ):
        recalls, gains = [], []
        for user, own in events.groupby("uid"):
            held_out = own.tail(round(0.1 * len(own)))
            ranks = []
            for row in held_out.itertuples():
                listed = [
                    item.item_id for item in service.recommend(user, n=10, method=key, time=int(row.ts))
                ]
                ranks.append(listed.index(row.iid) + 1 if row.iid in listed else np.inf)
            recalls.append(np.mean([rank <= 10 for rank in ranks]))
            gains.append(np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks]))
        assert table[name]["recall@10"] == pytest.approx(np.mean(recalls), abs=1e-9)
        assert table[name]["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-9)


def test_what_a_vector_is_worth_by_items_shown(vector_run, tmp_path, capsys):
    """Each figure is that of the method asked with such prompts, at the temperature that validation finds likeliest."""
    config, run = vector_run
    methods = Methods(Run.open(shutil.copytree(run.path, tmp_path / "run")), config)
    found = analyse_context(methods, "e2p", (0, 2), 400, "static_prefix")
    rows = {(row["shown"], row["name"]): row for row in found["rows"]}
    assert len(rows) == 8
    data, tested = methods.dataset, methods.dataset.instances(TEST)
    held_out = data.instances(VALIDATION)
    # two items are what every prompt of this run shows
    for name, key in ((NONE, "no_context"), (OWN, "e2p"), ("static_prefix", "static_prefix")):
        row, method = rows[2, name], methods.build(key)
        sides = {}
        for events, grid in ((held_out, TEMPERATURES), (tested, (row["temperature"],))):
            requests = data.requests(events, data.exclude_seen)
            sides[len(grid)] = [method.log_prob(requests, data.items[events], t) for t in grid]
        means = [user_means(values, data.users[held_out])[1].mean() for values in sides[len(TEMPERATURES)]]
        best = int(np.argmax(means))  # of the grid; the temperature lies between its neighbours
        around = TEMPERATURES[max(best - 1, 0)], TEMPERATURES[min(best + 1, len(TEMPERATURES) - 1)]
        assert around[0] <= row["temperature"] <= around[1]
        requests = data.requests(held_out, data.exclude_seen)
        values = method.log_prob(requests, data.items[held_out], row["temperature"])
        assert user_means(values, data.users[held_out])[1].mean() >= max(means) - 1e-3
        by_hand = user_means(expected_hit(sides[1][0], 30), data.users[tested])[1]
        assert row["expected_hit_rate@30"] == pytest.approx(by_hand.mean(), rel=1e-4)
    assert rows[2, OWN]["tokens"] == pytest.approx(rows[2, NONE]["tokens"] + 1)
    assert rows[0, NONE]["tokens"] == 1  # its BOS
    assert rows[0, OTHER]["expected_hit_rate@30"] != rows[0, OWN]["expected_hit_rate@30"]
    own, other = (rows[0, name]["expected_hit_rate@30"] for name in (OWN, OTHER))
    assert rows[0, OTHER]["own_minus_this"] == pytest.approx(own - other)
    assert rows[0, OTHER]["p_holm"] >= rows[0, OTHER]["p"]
    folder = folder_of(methods.run.path, "e2p")
    assert json.loads((folder / "context.json").read_text())["test_users"] == found["test_users"]
    assert (folder / "context.png").read_bytes().startswith(b"\x89PNG")
    print_context(found)
    said = capsys.readouterr().out
    assert "…" not in said
    line = next(line for line in said.splitlines() if "another's" in line)
    shown = f"{rows[0, OTHER]['recall@10']:.4f}".removeprefix("0"), f"{own - other:+.4f}".replace("0.", ".")
    assert "  ".join(shown) in re.sub(" +", "  ", line), "R@10 and gain, as the heads say"
    with pytest.raises(
        ValueError, match="'no_context' is no method of this run whose prompt has soft tokens"
    ):
        analyse_context(methods, "no_context")


def test_int8_weights_leave_the_head_as_it_is(vector_run):
    config, run = vector_run
    plain, small = Methods(run, config), Methods(run, config, int8=True)
    assert "divergence from float32" in str(small.model and small.int8_effect)
    for name, tensor in plain.model.head.state_dict().items():
        assert torch.equal(small.model.head.state_dict()[name], tensor)


def test_it_is_aligned(vector_run, tmp_path):
    config, run = vector_run
    labelled = with_lists(run, tmp_path / "run")
    rows = [{"method": STATIC}, {"method": E2P}, {"method": E2P, "objective": "kto"}]
    settings = AlignConfig.model_validate(QUICK | {"steps": 12, "rows": rows})
    align(settings, config.adapt, labelled)
    world = World.load(labelled, config.adapt, config.personalize)
    reading = load_aligned(world, settings, settings.rows[-1], 0)
    requests = world.dataset.requests(world.dataset.events(TEST)[:3], True)
    prompts, condition = reading.conditioned(reading.prompts(requests), requests)
    free = [np.setdiff1d(np.arange(60), request.exclude) for request in requests]
    lists = [items[:k] for items, k in zip(free, (3, 1, 2), strict=True)]
    values = reading.model.list_log_probs(
        prompts, lists, condition, [request.exclude for request in requests]
    )
    served = SidRecommender("", reading).list_log_prob(requests, lists)
    np.testing.assert_allclose(values.detach(), [one.sum() for one in served], atol=1e-4)
    assert constraints_of(reading.model.trie, requests).n_rows == 3
