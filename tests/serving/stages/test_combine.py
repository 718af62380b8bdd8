"""The stage `combine` on a run: weights that no expert alone has, products served and evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import chi2

from evaluation.softmax import SoftmaxOver
from llm.decoding.recommender import SidRecommender
from recsys.data.splits import TEST
from recsys.recommender import Request
from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.recommender import Recommender
from serving.config.combine import CombineConfig
from serving.config.run import RunConfig
from serving.stages.combine import combine
from serving.stages.evaluate import evaluate
from serving.studies.shares import analyse_shares, shares


class Table:
    """A scorer that looks its scores up by request id."""

    def __init__(self, name: str, scores: np.ndarray):
        self.name, self.table, self.calls = name, scores, 0

    def scores(self, requests):
        self.calls += 1
        return self.table[[int(request.request_id) for request in requests]]


def requests_of(n: int, excluded: np.ndarray | None = None) -> list[Request]:
    none = np.zeros(0, np.int64)
    return [Request(str(at), at, 0, exclude=none if excluded is None else excluded[at]) for at in range(n)]


# -- the stage --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def combined(small_run, tmp_path_factory) -> tuple[RunConfig, Run]:
    import shutil

    config, run = small_run
    folder = tmp_path_factory.mktemp("combined") / "run"
    shutil.copytree(run.path, folder)
    config = config.model_copy(
        update={"combine": CombineConfig(experts=("embedding_retrieval", "popularity"), instances=200)}
    )
    copy = Run.open(folder)
    copy.write_config(config.model_dump(mode="json"))
    combine(config, copy, quiet=True)
    return config, copy


def test_the_stage_learns_weights_that_no_expert_alone_has(combined):
    _, run = combined
    report = run.read_json("combine", "combine.json")
    assert set(report["products"]) == {"experts_product", "no_context-0", "e2p-0"}
    for product in report["products"].values():
        assert product["nats"] <= min(product["nats_alone"]) + 1e-4
    assert report["products"]["no_context-0"]["nats"] < report["products"]["experts_product"]["nats"]
    assert report["products"]["no_context-0"]["values"][0] > 0.3, "in this world the generator knows the most"


def test_a_product_is_served_and_its_factors_are_what_it_says(combined):
    config, run = combined
    methods = Methods(run, config)
    data = methods.dataset
    requests = data.requests(data.events(TEST)[:6], False)
    product, generator = methods.build("no_context_product"), methods.build("no_context")
    assert isinstance(generator, SidRecommender)
    chosen = run.read_json("combine", "combine.json")["products"]["no_context-0"]
    weights = np.array(chosen["values"]) / chosen["temperature"]
    popularity = methods.build("popularity")
    items = data.items[data.events(TEST)[:6]]
    every = [
        weights[0]
        * np.stack([generator.log_prob(requests, np.full(6, item)) for item in range(data.n_items)], 1),
        weights[1] * methods.retrieval.scores(requests),
        weights[2] * popularity.scores(requests),
    ]
    expected = log_softmax(sum(every), axis=1)[np.arange(6), items]
    assert product.log_prob(requests, items) == pytest.approx(expected, abs=1e-3)
    served = Recommender.load(run.path)
    found = served.recommend(str(data.user_ids[0]), n=5, method="no_context_product")
    assert len(found) == 5
    assert found.method == "No Context × experts"


def test_an_expert_that_the_run_lacks_is_named(combined, tmp_path):
    import shutil

    config, run = combined
    shutil.copytree(run.path, tmp_path / "run")
    config = config.model_copy(update={"combine": CombineConfig(experts=("text",))})
    with pytest.raises(ValueError, match="no text vectors"):
        combine(config, Run.open(tmp_path / "run"), quiet=True)
    with pytest.raises(ValueError, match="each once"):
        CombineConfig(experts=("popularity", "popularity"))


def test_evaluation_of_the_whole_distribution_agrees_with_walking_the_trie(combined):
    """Exact ranks and the same probabilities; without exclusions the two are one distribution."""
    from serving.stages.rows import WholeCatalogue

    config, run = combined
    methods = Methods(run, config)
    data = methods.dataset
    events = data.events(TEST)[:40]
    requests = data.requests(events, False)
    walked = methods.build("no_context")
    whole = WholeCatalogue(walked, 1.0, walked.name)
    assert whole.log_prob(requests, data.items[events]) == pytest.approx(
        walked.log_prob(requests, data.items[events]), abs=1e-4
    )
    for one, other in zip(whole.recommend(requests, 5), walked.recommend(requests, 5), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    drawn, walked_draws = (
        np.bincount(method.draw(requests[:1], 3000)[0][0], minlength=data.n_items)
        for method in (whole, walked)
    )
    both = drawn + walked_draws
    large = both >= 20
    statistic = ((drawn - walked_draws)[large] ** 2 / both[large]).sum()
    assert statistic < chi2.ppf(0.999, large.sum())
    assert whole.context_tokens(requests) == walked.context_tokens(requests)


def test_only_the_rows_that_are_asked_for_are_measured_each_on_its_distribution(combined, tmp_path):
    import shutil

    config, run = combined
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluate")
    asked = ["No Context × experts", "No Context", "Experts alone"]
    settings = config.evaluate.model_copy(update={"rows": tuple(asked), "whole_catalogue": True})
    other = Run.open(tmp_path / "run")
    results = evaluate(config.model_copy(update={"evaluate": settings}), other, quiet=True)
    rows = {row["name"]: row for row in results.rows}
    assert sorted(rows) == sorted(asked)
    methods = Methods(run, config)
    data = methods.dataset
    events = data.events(TEST)
    requests = data.requests(events, data.exclude_seen)
    for key, name in (("no_context", "No Context"), ("no_context_product", "No Context × experts")):
        p = np.exp(methods.build(key).log_prob(requests, data.items[events]))
        assert rows[name]["expected_hit_rate@30"] == pytest.approx((1 - (1 - p) ** 30).mean(), abs=1e-3)
        scores = SoftmaxOver(methods.build(key)) if key == "no_context" else methods.build(key)
        own = scores.log_prob(requests, data.items[events])
        better = np.stack(
            [scores.log_prob(requests, np.full(len(events), item)) for item in range(data.n_items)]
        )
        assert rows[name]["recall@5"] == pytest.approx(((better > own).sum(0) < 5).mean())
    assert "distribution as a whole" in results.protocol["exclusions"]
    wrong = settings.model_copy(update={"rows": ("No Context", "SASREC")})
    with pytest.raises(ValueError, match="'SASREC'; this run has No Context"):
        evaluate(config.model_copy(update={"evaluate": wrong}), other, quiet=True)


@pytest.mark.parametrize("width", [2, 10_000])
def test_a_catalogue_that_is_too_large_gets_an_approximation_that_says_what_it_is(
    combined, tmp_path, capsys, width
):
    """Forced by a bound of 0 nodes: named in the artifact, no further from the exact product than it says, and served."""
    import shutil

    config, run = combined
    exact = run.read_json("combine", "combine.json")
    assert "approximation" not in exact
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "combine")
    settings = config.combine.model_copy(update={"nodes_a_depth": width, "exact_up_to": 0})
    other, config = Run.open(tmp_path / "run"), config.model_copy(update={"combine": settings})
    combine(config, other, quiet=True)
    assert not list((tmp_path / "run").rglob("*.f32"))
    found = other.read_json("combine", "combine.json")
    said = found["approximation"]
    assert said["nodes_a_depth"] == width
    assert set(said["products"]) == {"no_context-0", "e2p-0"}
    assert found["products"]["experts_product"] == exact["products"]["experts_product"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "combine: no_context-0: approximate" in printed
    bounds = said["products"]["no_context-0"]
    methods, honest = Methods(other, config), Methods(run, config)
    data = methods.dataset
    requests = data.block(data.events(TEST)[:8], data.exclude_seen)
    every = np.arange(data.n_items)

    def distribution(product):
        return np.exp([[product.log_prob([one], every[[item]])[0] for item in every] for one in requests])

    approximate = methods.build("no_context_product")
    assert type(approximate.scorer.scorers[0]).__name__ == "LikelyNodes"
    p = distribution(approximate)
    assert p.sum(1) == pytest.approx(np.ones(8), abs=1e-5)
    if width == 10_000:
        assert bounds["total_variation_at_most_of_the_worst"] == 0
        for name, values in exact["products"].items():
            assert found["products"][name]["nats"] == pytest.approx(values["nats"], abs=1e-5)
            assert found["products"][name]["values"] == pytest.approx(values["values"], rel=0.01, abs=0.01)
        q = distribution(honest.build("no_context_product"))
        assert np.abs(p - q).sum(1).max() / 2 < 0.02  # by the weights' last digits
        return
    assert 0 < bounds["mass_below_others"] <= bounds["total_variation_at_most"] <= 1
    drawn, log_p = approximate.draw(requests, 20, seed=1)
    np.testing.assert_allclose(log_p, np.log(np.take_along_axis(p, drawn, 1)), atol=1e-5)


def test_fewer_instances_are_scored_where_the_catalogue_is_large(combined, tmp_path, monkeypatch):
    """So that what lies in files is bounded; the artifact says how many."""
    import shutil

    config, run = combined
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "combine")
    n_items = Methods(run, config).dataset.n_items
    monkeypatch.setattr("serving.stages.combine.NUMBERS", 50 * n_items)
    other = Run.open(tmp_path / "run")
    combine(config, other, quiet=True)
    assert {one["instances"] for one in other.read_json("combine", "combine.json")["products"].values()} == {
        50
    }


def test_rows_of_an_evaluation_ask_a_generator_and_an_expert_once_about_a_request(
    combined, tmp_path, monkeypatch
):
    """Of everything that scores a catalogue: in whole-catalogue rows and in products, of one chunk after the other."""
    import shutil
    from collections import Counter

    from recsys.embeddings.retrieval import EmbeddingRetrieval

    config, run = combined
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluate")
    asked: Counter = Counter()
    for kind in (SidRecommender, EmbeddingRetrieval):

        def scores(self, requests, honest=kind.scores):
            asked.update((self.name, type(self).__name__, request.request_id) for request in requests)
            return honest(self, requests)

        monkeypatch.setattr(kind, "scores", scores)
    settings = config.evaluate.model_copy(
        update={"rows": ("No Context", "No Context × experts", "E2P", "E2P × experts", "Experts alone"),
                "whole_catalogue": True, "batch_size": 8, "max_instances": 20}
    )  # fmt: skip
    # the lists of a few people, which the report shows, and what a list costs are asked for apart from the rows
    monkeypatch.setattr("serving.stages.evaluate.measure_costs", lambda *_: {})
    monkeypatch.setattr("serving.stages.evaluate.people_lists", lambda *_: None)
    evaluate(config.model_copy(update={"evaluate": settings}), Run.open(tmp_path / "run"), quiet=True)
    data = Methods(run, config).dataset
    tested = {f"e{event}" for event in data.events(TEST)}
    counts = {key: count for key, count in asked.items() if key[2] in tested}
    assert {name for name, _, _ in counts} >= {"No Context", "E2P", "Embedding Retrieval"}
    assert set(counts.values()) == {1}


# -- what each factor brings --------------------------------------------------------------------------------------


def test_shares_by_hand():
    """Three items and a fourth that is not available, p = (1/2, 1/4, 1/4): of L = log p, which both factors make up."""
    rest = np.log(0.25)
    first = np.array([[np.log(0.5), rest, rest, 50.0]]) * 0.8 / 2  # weight 2: .8 of L
    second = np.array(
        [[np.log(0.5) * 0.2 + 7, rest * 0.2 + 7, rest * 0.2 + 7, -50.0]]
    )  # .2 of L, and a constant
    out = torch.tensor([[False, False, False, True]])
    found = shares([torch.from_numpy(first), torch.from_numpy(second)], [2.0, 1.0], out)
    np.testing.assert_allclose(found.numpy(), [[0.8, 0.2]], atol=1e-12)
    against = shares([torch.from_numpy(first), torch.from_numpy(first)], [3.0, -1.0], out)
    np.testing.assert_allclose(against.numpy(), [[1.5, -0.5]], atol=1e-12)


def test_what_each_factor_brings_is_what_the_others_alone_lack(combined, tmp_path):
    import json
    import shutil

    config, run = combined
    copy = Run.open(shutil.copytree(run.path, tmp_path / "run"))
    methods = Methods(copy, config)
    found = analyse_shares(methods, 1000)
    assert json.loads((copy.path / "analyses/shares.json").read_text()) == json.loads(json.dumps(found))
    assert (copy.path / "analyses/shares.png").read_bytes().startswith(b"\x89PNG")
    assert [one["name"] for one in found["products"]] == [
        "Experts alone",
        "No Context × experts",
        "E2P × experts",
    ]
    alone, with_it, _ = found["products"]
    for one in found["products"]:
        assert sum(row["share"] for row in one["factors"]) == pytest.approx(1)
    generator, *others = with_it["factors"]
    assert [row["factor"] for row in others] == [row["factor"] for row in alone["factors"]]
    # without the generator the product is that of the experts alone, with its weights and figures
    assert generator["nats_lost"] == pytest.approx(alone["nats"] - with_it["nats"], abs=1e-9)
    assert generator["recall@10_lost"] == pytest.approx(with_it["recall@10"] - alone["recall@10"], abs=1e-9)
    assert generator["nats_lost"] > max(row["nats_lost"] for row in others), (
        "the generator knows the most here"
    )
    # one expert alone is a softmax over its scores
    data = methods.dataset
    weights = {row["factor"]: row["weight"] for row in alone["factors"]}
    assert set(weights) == {"Embedding Retrieval", "Popularity"}
    events = data.instances(TEST)
    assert len(events) == found["instances"], "nothing is a sample here"
    requests, items = data.block(events, data.exclude_seen), data.items[events]
    total = sum(
        weights[name] * np.asarray(methods.scorer(key).scores(requests), np.float64)
        for name, key in (("Embedding Retrieval", "embedding_retrieval"), ("Popularity", "popularity"))
    )
    for row, request in zip(total, requests, strict=True):
        row[~request.available(np.arange(data.n_items))] = -np.inf
    log_p = log_softmax(total, axis=1)[np.arange(len(events)), items]
    means = [log_p[data.users[events] == user].mean() for user in np.unique(data.users[events])]
    assert alone["nats"] == pytest.approx(-np.mean(means), abs=1e-6)


def test_who_is_answered_by_one_factor_alone_has_no_part_in_the_shares(combined, tmp_path):
    import shutil

    config, run = combined
    methods = Methods(Run.open(shutil.copytree(run.path, tmp_path / "run")), config)
    data, events = methods.dataset, methods.dataset.events(TEST)
    cold = events[data.users[events] % 4 == 0]
    data.history_end[cold] = data.offsets[data.users[cold]]
    found = analyse_shares(methods, 1000)
    assert found["instances"] == len(data.instances(TEST)) - len(cold)
    assert found["users"] == 30


def test_shares_need_products(small_run):
    config, run = small_run
    with pytest.raises(ValueError, match="no products of experts here"):
        analyse_shares(Methods(run, config))
