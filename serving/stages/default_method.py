"""Which method answers by default: the row that validation finds best for each kind of request, within a latency budget.

Kinds: of a user with a history or of nobody known, with a query or without. Measured on validation alone: NDCG@30 of the list
that `recommend` returns, each method's on the same instances. Of generative rows the two whose validation targets are likeliest are asked
(each costs a search a request), of baselines and products all. Latency is the median of single requests for ten items, here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.metrics import ndcg_at_k, pad_lists
from evaluation.table.rows import Row
from llm.stage1.adapt import validation_events
from recsys.progress import Progress
from recsys.recommender import Recommender, Request
from serving.answering.defaults import FOR_WORDS, reads_queries
from serving.answering.methods import Methods
from serving.answering.queries import as_nobody, asked_about
from serving.answering.requests import answer
from serving.answering.untrained import BASELINES, NO_CONTEXT
from serving.stages.costs import single_seconds

DEPTH = 30  # items measured
GENERATORS = 2  # generative rows that are asked
MEASURE = f"NDCG@{DEPTH}"


def choose_default(methods: Methods, rows: Sequence[Row], quiet: bool = False) -> dict[str, Any]:
    """`kinds`: kind -> `ranked`, the methods from the best on (`key`, `name`, `value`, `ms`); `latency_ms`, `measure`, `instances`."""
    config, data = methods.config.evaluate, methods.dataset
    events = validation_events(data, config.default_instances, seed=1)
    plain, targets = data.block(events, data.exclude_seen), data.items[events]
    asked, wanted = asked_about(methods.phrases.before_test(), events, seed=1)
    kinds = {
        "known": (plain, targets),
        "cold": (as_nobody(plain), targets),
        "known with a query": (asked, wanted),
        "cold with a query": (as_nobody(asked), wanted),
    }
    built = {key: methods.build(key) for key in _candidates(methods, rows)}
    seconds = {key: single_seconds(one, plain) for key, one in built.items()}
    for_queries = list(methods.products.for_queries()) if methods.products is not None else []
    found: dict[str, Any] = {}
    with Progress(total=4 * len(built), desc="default method", unit="method", disable=quiet) as bar:
        for kind, (requests, items) in kinds.items():
            ranked = []
            for key, one in built.items():
                bar.update()
                reads = reads_queries(key, for_queries, methods.reads_words)
                if not len(requests) or (
                    kind.endswith("query") != reads and (key == FOR_WORDS or key in for_queries)
                ):
                    continue
                value = float(ndcg_at_k(_lists(one, requests), items, DEPTH).mean())
                ranked.append({"key": key, "name": one.name, "value": value, "ms": 1000 * seconds[key]})
            if ranked:
                found[kind] = {"ranked": sorted(ranked, key=lambda one: -one["value"])}
    facts = {"measure": MEASURE, "instances": len(plain), "latency_ms": config.default_latency_ms}
    return facts | {"kinds": found}


def _candidates(methods: Methods, rows: Sequence[Row]) -> list[str]:
    nats = {row.name: row.nats for row in rows if row.nats is not None}
    generative = [NO_CONTEXT, *(method.key for method in methods.config.personalize.methods)]
    likely = [key for key in generative if methods.name(key) in nats]
    likely.sort(key=lambda key: -nats[methods.name(key)])
    baselines = [key for key in methods.available() if key in BASELINES and key != NO_CONTEXT]
    return [*baselines, *likely[:GENERATORS], *methods.product_names]


def _lists(one: Recommender, requests: Sequence[Request]) -> np.ndarray:
    """Items [R, DEPTH] of every request; who asks the same (nobody, in the same words) is answered once."""
    keys = [(r.user, r.query, r.time if r.user is not None else 0) for r in requests]
    first = {key: at for at, key in reversed(list(enumerate(keys)))}
    distinct = sorted(first.values())
    lists = [ranked.items for ranked in answer(one, [requests[at] for at in distinct], DEPTH)]
    place = {keys[at]: number for number, at in enumerate(distinct)}
    return pad_lists([lists[place[key]] for key in keys], DEPTH)
