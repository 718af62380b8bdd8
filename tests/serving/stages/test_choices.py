"""What answers by default and why, the products' cold start, queries; and that the table's lists are those that are served."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from evaluation.metrics import ndcg_at_k, pad_lists
from evaluation.table.instances import Question, sample_instances
from llm.stage1.adapt import validation_events
from recsys.data.dataset import Dataset
from recsys.data.splits import TEST
from recsys.run import Run
from serving.answering.defaults import fastest_of
from serving.answering.methods import Methods
from serving.answering.queries import as_nobody, asked_about
from serving.answering.recommender import Recommender
from serving.config.combine import CombineConfig
from serving.stages.combine import combine
from serving.stages.default_method import choose_default
from serving.stages.queries import queries_table
from serving.stages.rows import table_rows


@pytest.fixture(scope="module")
def combined(small_run, tmp_path_factory):
    config, run = small_run
    folder = tmp_path_factory.mktemp("choices") / "run"
    shutil.copytree(run.path, folder)
    experts = ("embedding_retrieval", "item_knn", "popularity")
    evaluate = config.evaluate.model_copy(update={"default_instances": 20, "query_instances": 30})
    config = config.model_copy(
        update={
            "combine": CombineConfig(experts=experts, instances=100, query_instances=50),
            "evaluate": evaluate,
        }
    )
    copy = Run.open(folder)
    copy.write_config(config.model_dump(mode="json"))
    combine(config, copy, quiet=True)
    return config, copy


@pytest.fixture(scope="module")
def methods(combined):
    config, run = combined
    return Methods(run, config)


@pytest.fixture(scope="module")
def service(methods):
    return Recommender(methods)


def question_of(methods) -> Question:
    data = methods.dataset
    events = data.events(TEST)
    return Question(data.requests(events, data.exclude_seen), data.items[events], data.users[events])


def ids(found):
    return [item.item_id for item in found]


# -- one definition of a list -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("whole", "exclude_seen"), [(False, True), (True, True), (True, False)])
def test_the_list_that_the_table_measures_is_the_one_that_is_served(combined, service, whole, exclude_seen):
    """Of every kind of row, for test instances: the same items in the same order."""
    config, run = combined
    settings = config.evaluate.model_copy(update={"whole_catalogue": whole})
    methods = Methods(run, config.model_copy(update={"evaluate": settings}))
    data = methods.dataset
    events = data.events(TEST)[::25][:4]
    requests = data.block(events, exclude_seen)
    keys = {methods.name(key): key for key in methods.available()}
    chosen = _no_choice(methods)
    rows = {row.name: row for row in table_rows(methods, question_of(methods), chosen) if row.name in keys}
    assert {"Popularity", "Item-kNN", "Embedding Retrieval", "SASRec", "No Context", "E2P"} <= rows.keys()
    assert {
        "Experts alone",
        "No Context × experts",
        "OPPU (LoRA)" if "OPPU (LoRA)" in keys else "E2P",
    } <= rows.keys()
    for name, row in rows.items():
        for request, measured in zip(requests, row.replicas[0].recommend(requests, 10), strict=True):
            served = service.recommend(
                str(data.user_ids[request.user]),
                n=10,
                time=request.time,
                method=keys[name],
                exclude_seen=exclude_seen,
            )
            assert ids(served) == [str(data.catalogue.item_ids[item]) for item in measured.items], name


def _no_choice(methods):
    """Temperatures of every row, so that none is chosen: 1."""

    class One(dict):
        def __missing__(self, name):
            return 1.0

    some = One()
    some["any"] = 1.0
    return some


# -- cold starts ------------------------------------------------------------------------------------------------


def test_a_product_answers_a_stranger_as_a_person_would(service):
    popular = service.recommend("nobody", n=12, method="popularity")
    found = service.recommend("nobody", n=12, method="experts_product")
    assert ids(found) == ids(popular)
    assert len({item.score for item in found}) > 1
    assert found.path == "cold start (user 'nobody' is unknown to the run): Popularity alone"
    generated = service.recommend("nobody", n=12, method="no_context")
    product = service.recommend("nobody", n=12, method="no_context_product")
    assert ids(product) == ids(generated)
    assert [item.score for item in product] == pytest.approx([item.score for item in generated], abs=1e-4)
    assert product.path.endswith("No Context alone")
    warm = service.recommend("nobody", n=12, method="experts_product", history=["i0", "i2"])
    assert warm.path == "personalized"
    assert ids(warm) != ids(popular)
    assert service.recommend("u0", n=3, method="experts_product").path == "personalized"


def test_every_method_says_the_truth_of_its_path(service, methods):
    for key in methods.available():
        known, stranger = (service.recommend(who, n=3, method=key).path for who in ("u0", "nobody"))
        if key in ("popularity", "recency", "text_search"):
            assert known == stranger == "the same for everybody", key
        elif stranger.startswith("personalized by what the method keeps"):
            assert "adapter" not in known
        else:
            assert known.startswith("personalized"), key
            assert stranger.startswith("cold start (user 'nobody' is unknown to the run)"), key


# -- queries ----------------------------------------------------------------------------------------------------


def test_a_query_is_read_or_it_is_said_that_it_is_not(service):
    asked = service.recommend("u0", "odd", n=10, method="query_product")
    assert ids(asked) != ids(service.recommend("u0", n=10, method="query_product"))
    words, plain = (service.recommend("u0", query, n=10, method="words_product") for query in ("odd", None))
    assert {item.item_id: item.score for item in words} != {item.item_id: item.score for item in plain}
    found = service.recommend("u0", "odd", n=10, method="text_search")
    assert all(int(item[1:]) % 2 for item in ids(found))
    assert found.path == "the same for everybody who asks in these words"
    for key in ("popularity", "item_knn", "experts_product"):
        assert service.recommend("u0", "odd", n=3, method=key).path.endswith(
            "; the query is not read by this method"
        )
    assert "not read" not in service.recommend("u0", "odd", n=3, method="e2p").path


def test_a_run_without_words_refuses_a_query_or_searches_for_it(combined):
    config, run = combined
    silent = config.adapt.model_copy(update={"words_batch": 0, "query_share": 0.0})
    methods = Methods(run, config.model_copy(update={"adapt": silent}))
    assert not methods.reads_words
    service = Recommender(methods)
    with pytest.raises(ValueError, match=r"trained without words.*text_search"):
        service.recommend("u0", "odd", method="no_context")
    found = service.recommend("u0", "odd", n=5)
    assert (found.method, found.why) == (
        "BM25", "the run's generator was trained without words, so words are searched for",
    )  # fmt: skip
    assert found.notes()[0] == f"BM25: {found.why}"
    assert service.recommend("u0", n=5).method == "E2P"


def test_requests_with_a_query_are_asked_in_words_of_their_target(methods):
    phrases, data = methods.phrases, methods.dataset
    events = data.events(TEST)
    requests, targets = asked_about(phrases, events, 0)
    assert len(requests) > 20
    for request, target in zip(requests, targets, strict=True):
        assert phrases.matching(request.query)[target]
        assert not phrases.is_held_out(request.query)
    held = asked_about(phrases, events, 0, held_out=True)[0]
    assert all(phrases.is_held_out(request.query) for request in held)
    nobody = as_nobody(requests)
    assert {(one.user, len(one.history), len(one.exclude)) for one in nobody} == {(None, 0, 0)}
    assert [one.query for one in nobody] == [one.query for one in requests]


def test_the_table_of_queries_counts_what_it_says(methods):
    found = queries_table(methods, None)
    seen = found["seen"]
    names = [row["name"] for row in seen["rows"]]
    assert {"BM25", "No Context", "E2P", "Experts × words", "No Context × experts × words"} <= set(names)
    assert sum(name.startswith("BM25 × ") for name in names) == 1
    assert seen["best_baseline"] in names
    assert seen["difference"] is None
    data = methods.dataset
    events = data.instances(TEST)
    events = events[sample_instances(data.users[events], 30, 0)]
    requests, targets = asked_about(methods.phrases, events, 0)
    lists = methods.build("e2p").recommend(requests, 30)
    hit = [target in ranked.items for target, ranked in zip(targets, lists, strict=True)]
    by_user = {user: np.mean([h for h, r in zip(hit, requests, strict=True) if r.user == user])
               for user in {r.user for r in requests}}  # fmt: skip
    row = next(row for row in seen["rows"] if row["name"] == "E2P")
    assert row["hit_rate@30"] == pytest.approx(np.mean(list(by_user.values())))
    fits = [methods.phrases.matching(request.query) for request in requests]
    share = [mask[ranked.items[:10]].mean() for mask, ranked in zip(fits, lists, strict=True)]
    assert row["precision@10"] == pytest.approx(np.mean(share))
    change = seen["change"]  # no default was chosen: E2P, with the query and without
    assert (change["a"], change["b"]) == ("E2P", "E2P")
    assert change["value_a"] == pytest.approx(row["hit_rate@30"])
    silent = methods.build("e2p").recommend([replace(one, query=None) for one in requests], 30)
    hit = [target in ranked.items for target, ranked in zip(targets, silent, strict=True)]
    without = {user: np.mean([h for h, r in zip(hit, requests, strict=True) if r.user == user])
               for user in {r.user for r in requests}}  # fmt: skip
    assert change["value_b"] == pytest.approx(np.mean(list(without.values())))
    assert change["difference"] == pytest.approx(change["value_a"] - change["value_b"])
    assert change["p_holm"] >= change["p_value"]


# -- the default ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(methods):
    rows = table_rows(methods, question_of(methods), _no_choice(methods))
    for at, row in enumerate(rows):
        if row.nats is not None:
            rows[at] = type(row)(
                row.name, row.replicas, nats=-3.0 + 0.1 * (row.name in ("E2P", "No Context"))
            )
    honest = Dataset.instances

    def instances(self, role):
        assert role != TEST, "the test has no say in what answers"
        return honest(self, role)

    Dataset.instances = instances
    try:
        return choose_default(methods, rows, quiet=True)
    finally:
        Dataset.instances = honest


def test_validation_ranks_the_methods_for_each_kind_of_request(methods, record):
    assert set(record["kinds"]) == {"known", "cold", "known with a query", "cold with a query"}
    assert record["instances"] == 20
    for kind, found in record["kinds"].items():
        values = [one["value"] for one in found["ranked"]]
        assert values == sorted(values, reverse=True)
        keys = {one["key"] for one in found["ranked"]}
        assert {"no_context", "e2p", "experts_product", "popularity", "item_knn"} <= keys
        assert ("query_product" in keys) == ("text_search" in keys) == kind.endswith("query")
        assert all(one["ms"] > 0 for one in found["ranked"])
    data = methods.dataset
    events = validation_events(data, 20, seed=1)
    lists = methods.build("item_knn").recommend(data.block(events, data.exclude_seen), 30)
    value = ndcg_at_k(pad_lists([one.items for one in lists], 30), data.items[events], 30).mean()
    own = next(one for one in record["kinds"]["known"]["ranked"] if one["key"] == "item_knn")
    assert own["value"] == pytest.approx(value)


def test_recommend_answers_by_it_and_says_why(combined, record):
    config, run = combined
    methods = Methods(run, config)
    methods.__dict__["default"] = record | {"latency_ms": 1e9}
    service = Recommender(methods)
    for who, query, kind in (
        ("u0", None, "known"), ("nobody", None, "cold"), ("u0", "odd", "known with a query"), (None, "odd", "cold with a query"),
    ):  # fmt: skip
        best = record["kinds"][kind]["ranked"][0]
        found = service.recommend(who, query, n=5)
        assert found.method == best["name"]
        assert found.why.startswith(
            f"validation's choice for {kind}: NDCG@30 {best['value']:.4f} on 20 validation"
        )
        assert ids(found) == ids(service.recommend(who, query, n=5, method=best["key"]))
    sequence = service.recommend("u0", n=3, sequence=True)
    assert sequence.method == "E2P"
    assert "in sequence" in sequence.why


def test_nothing_slower_than_the_budget_answers_by_default(record):
    times = sorted(one["ms"] for one in record["kinds"]["known"]["ranked"])
    tight = record | {"latency_ms": times[1]}
    best = fastest_of(tight, "known")
    assert best["ms"] <= times[1]
    assert best["value"] == max(
        one["value"] for one in record["kinds"]["known"]["ranked"] if one["ms"] <= times[1]
    )
    assert fastest_of(record | {"latency_ms": 0.0}, "known")["ms"] == times[0]
    assert fastest_of(tight, "known", ["popularity"])["key"] == "popularity"
