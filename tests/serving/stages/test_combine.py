"""The stage `combine` on a run: weights that no expert alone has, products served and evaluated."""

from __future__ import annotations

import numpy as np
import pytest
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
