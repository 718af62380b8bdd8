"""The table of queries: (user, query) → the next item, which fits it; what of the first ten carries the query's words.

Rows: BM25 and dense text retrieval, each alone and times the user's retriever (the one that validation finds best; weights of the highest
validation likelihood), that retriever alone, generators, and the products with a query expert. A query is made of the target's own words
(`serving.answering.queries`), once of texts that training may read and once of held-out ones. What answers by default is held against the
baseline that validation finds best: both are chosen before the test is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evaluation.metrics import hits, pad_lists
from evaluation.product import Product, fit_weights
from evaluation.softmax import LastScores, Scorer, SoftmaxOver
from evaluation.statistics import holm, mean_interval, paired_test, user_means
from evaluation.table.instances import sample_instances
from llm.stage1.adapt import validation_events
from recsys.data.phrases import Phrases
from recsys.data.splits import TEST
from recsys.data.text_vectors import TextEncoder
from recsys.embeddings.text_search import DenseSearch, TextSearch
from recsys.recommender import Recommender, Request
from serving.answering.defaults import fastest_of
from serving.answering.methods import Methods
from serving.answering.products import text_vectors
from serving.answering.queries import asked_about
from serving.answering.requests import answer
from serving.answering.untrained import NO_CONTEXT

DEPTH, FIRST = 30, 10  # items of a list whose target counts, and whose words are looked at
HIT, PRECISION = f"hit_rate@{DEPTH}", f"precision@{FIRST}"
RETRIEVERS = ("sasrec", "embedding_retrieval", "item_knn")


def queries_table(methods: Methods, default: Mapping[str, Any] | None) -> dict[str, Any]:
    """`seen` and `held_out`: instances, users, `rows` (name, hit-rate@30 with its 95 % interval over users, precision@10), the
    default's difference from the best baseline, and the `change` by the query: what answers by default with it, less what does for the same
    requests without. p-values of these, at most four, are corrected by Holm. {} in a run trained without words, or where no target has any.
    """
    config, data = methods.config.evaluate, methods.dataset
    if not methods.reads_words or not config.query_instances:
        return {}
    validation = validation_events(data, config.query_instances, seed=2)
    chosen = asked_about(methods.phrases.before_test(), validation, seed=2)
    if not len(chosen[0]):
        return {}
    baselines = _baselines(methods, *chosen)
    on_validation = {name: _hits(one, *chosen).mean() for name, one in baselines.items()}
    best = max(on_validation, key=lambda name: on_validation[name])
    rows, default_name = baselines | _ours(methods, default), None
    if default is not None and "known with a query" in default["kinds"]:
        default_name = fastest_of(default, "known with a query")["name"]
    events = data.instances(TEST)
    events = events[sample_instances(data.users[events], config.query_instances, config.seed)]
    has_known = default is not None and "known" in default["kinds"]
    ours = [key for key in ("e2p", NO_CONTEXT) if key in methods.available()]
    without = methods.build(fastest_of(default, "known")["key"] if default and has_known else ours[0])
    asking = default_name or methods.name(ours[0])
    found: dict[str, Any] = {}
    for side in ("seen", "held_out"):
        requests, targets = asked_about(methods.phrases, events, config.seed, side == "held_out")
        if len(requests):
            found[side] = _side(rows, requests, targets, methods.phrases, default_name, best)
            found[side]["change"] = _change(rows[asking], asking, without, requests, targets)
    tests = [
        some[key] for some in found.values() for key in ("difference", "change") if some[key] is not None
    ]
    for test, p in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["p_holm"] = p
    return found


def _change(
    one: Recommender, name: str, without: Recommender, requests: list[Request], targets: np.ndarray
) -> dict[str, Any]:
    """What `one` finds of the targets with the query, less what `without` does for the same requests without it: like a contrast of the table."""
    users = np.array([-1 if asked.user is None else asked.user for asked in requests])
    silent = [replace(asked, query=None) for asked in requests]
    asked, alone = (
        user_means(_hits(who, some, targets), users)[1] for who, some in ((one, requests), (without, silent))
    )
    test = paired_test(asked, alone)
    return {
        "a": name,
        "b": without.name,
        "depth": DEPTH,
        "value_a": float(asked.mean()),
        "value_b": float(alone.mean()),
        "n_users": test.n_users,
        "difference": test.difference,
        "difference_ci95": None if test.interval is None else list(test.interval),
        "p_value": test.p_value,
    }


def _side(
    rows: Mapping[str, Recommender],
    requests: list[Request],
    targets: np.ndarray,
    phrases: Phrases,
    default: str | None,
    best: str,
) -> dict[str, Any]:
    users = np.array([-1 if one.user is None else one.user for one in requests])
    fits = [phrases.matching(one.query or "") for one in requests]
    per_user, table = {}, []
    for name, one in rows.items():
        lists = _lists(one, requests)
        per_user[name] = user_means(hits(lists, targets), users)[1]
        shares = [
            np.nan if mask is None else mask[row[:FIRST][row[:FIRST] >= 0]].sum() / FIRST
            for row, mask in zip(lists, fits, strict=True)
        ]
        interval = mean_interval(per_user[name])
        table.append(
            {
                "name": name,
                HIT: float(per_user[name].mean()),
                f"{HIT}_ci95": None if interval is None else list(interval),
                PRECISION: float(np.nanmean(shares)) if np.isfinite(shares).any() else None,
            }
        )
    facts = {"instances": len(requests), "users": len(np.unique(users)), "rows": table}
    facts |= {"default": default, "best_baseline": best, "difference": None}
    if default in per_user:
        test = paired_test(per_user[default], per_user[best])
        facts["difference"] = {
            "value": test.difference, "ci95": None if test.interval is None else list(test.interval), "p_value": test.p_value,
        }  # fmt: skip
    return facts


def _baselines(methods: Methods, requests: list[Request], targets: np.ndarray) -> dict[str, Recommender]:
    """By name; weights are those of the validation instances `requests` and `targets`."""
    counts, n_items = methods.dataset.item_totals.counts, methods.dataset.n_items
    searches: list[TextSearch] = [methods.text_search]
    if methods.config.embed.text_encoder is not None:
        encoder = TextEncoder(methods.config.embed.text_encoder)
        vectors, mean = text_vectors(methods), _mean_text(methods)
        searches.append(DenseSearch(vectors, lambda texts: encoder.encode(texts) - mean, counts))
    known = [key for key in RETRIEVERS if key in methods.available()]
    retrievers = {key: methods.build(key) for key in known}
    best = max(known, key=lambda key: _hits(retrievers[key], requests, targets).mean())
    found: dict[str, Recommender] = {one.name: one for one in searches} | {
        retrievers[best].name: retrievers[best]
    }
    for one in searches:
        scorers: list[Scorer] = [LastScores(one), methods.scorer(best)]
        weights = fit_weights(scorers, requests, targets, n_items)
        name = f"{one.name} × {retrievers[best].name}"
        product = Product(name, scorers, weights.sharpened, (0, 1), methods.scorer("popularity"))
        found[name] = SoftmaxOver(product, 1.0, name, n_items)
    return found


def _ours(methods: Methods, default: Mapping[str, Any] | None) -> dict[str, Recommender]:
    """Generators and products that read queries, and whatever answers by default."""
    keys = [key for key in (NO_CONTEXT, "e2p") if key in methods.available()]
    if methods.products is not None:
        keys += methods.products.for_queries()
    if default is not None and "known with a query" in default["kinds"]:
        keys.append(fastest_of(default, "known with a query")["key"])
    return {methods.name(key): methods.build(key) for key in dict.fromkeys(keys)}


def _mean_text(methods: Methods) -> np.ndarray:
    from recsys.embeddings.embed import load_item_vectors

    return load_item_vectors(methods.run)["text"][: methods.dataset.catalogue.n_trained].mean(0)


def _lists(one: Recommender, requests: Sequence[Request]) -> np.ndarray:
    return pad_lists([ranked.items for ranked in answer(one, requests, DEPTH)], DEPTH)


def _hits(one: Recommender, requests: Sequence[Request], targets: np.ndarray) -> np.ndarray:
    return hits(_lists(one, requests), targets)
