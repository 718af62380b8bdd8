"""Stage `combine`: the generator's distribution times the retrievers', normalised.

p(item) ∝ p_gen(item)^γ · exp(Σ_k β_k · s_k(user, item)). The product is normalised over the whole catalogue,
of which the generator scores every item by one tree pass (`llm.decoding.whole_catalogue`). γ and β are those
of the highest likelihood of validation targets, sharpened for 30 draws. The same product without a generator
is a row too.

Where the trie is too large for that, a pass forwards the likeliest nodes of each depth, and what lies below the others
gets an even share of its node's exact probability. The artifact then says so (`approximation`), and how far the product
is from the exact one at most. Scores lie in files while the stage is at work: memory holds a block of instances.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.product import Differences, Weights, remainder
from evaluation.softmax import LastScores, Scorer
from llm.decoding.recommender import SidRecommender
from llm.decoding.whole_catalogue import inner_nodes
from llm.stage1.adapt import validation_events
from recsys.embeddings.retrieval import retrieval_hits
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.progress import Progress
from recsys.recommender import Request
from recsys.run import Run
from recsys.seeds import sample
from serving.answering.methods import Methods
from serving.answering.products import LikelyNodes, experts_of, generator_of, seeds_of, text_vectors
from serving.answering.queries import asked_about
from serving.config.combine import ALONE, ASKED, WORDS, CombineConfig
from serving.config.run import RunConfig

NUMBERS = 1 << 28  # scores of a factor that lie in a file while weights are found: 1 GiB
BOUNDED = 32  # validation instances on which the distance from the exact product is bounded
TEXT_HALF_LIVES = (1, 2, 5, 20)  # items; validation picks


def combine(config: RunConfig, run: Run, quiet: bool = False) -> None:
    """Run the stage: `combine.json` with the weights of each product.
    Raises `ValueError` for an expert that the run lacks.
    """
    settings = config.combine
    assert settings is not None
    stage = run.stage("combine", settings, needs=["prepare", "embed", "tokenize", "adapt", "personalize"])
    if stage.is_done():
        return
    methods = Methods(run, config)
    data = methods.dataset
    is_large = inner_nodes(methods.model.trie) > settings.exact_up_to
    width = settings.nodes_a_depth if is_large else None
    at_most = min(settings.instances, max(NUMBERS // data.n_items, 1))
    events = validation_events(data, at_most, settings.seed)
    requests, targets = data.block(events, data.exclude_seen), data.items[events]
    with stage.writing() as folder:
        report: dict[str, Any] = {"experts": list(settings.experts), "text_half_life_items": None}
        if "text" in settings.experts:
            report["text_half_life_items"] = _text_half_life(methods, requests, targets)
        experts = experts_of(methods, settings, report["text_half_life_items"])
        report["products"] = {}
        bounds: dict[str, Any] = {}  # of each product that is approximate
        if width is not None:
            report["approximation"] = {"nodes_a_depth": width, "what": WHAT, "products": bounds}
        scores = stage.checkpoint / "scores"
        shutil.rmtree(scores, ignore_errors=True)
        scores.mkdir(parents=True)
        asked = Differences(scores, requests, targets, data.n_items)
        of_experts = [asked.add(expert.scorer) for expert in experts]
        for name, generator in Progress(
            _generators(methods, settings), desc="combine", disable=quiet, unit="product"
        ):
            scorer = generator if generator is None or width is None else LikelyNodes(generator, width)
            own = [asked.add(scorer)] if scorer is not None else []
            found = asked.fit([*own, *of_experts])
            for path in own:
                path.unlink()
            report["products"][name] = asdict(found)
            _print(name, found, [*(["generator"] if generator else []), *settings.experts])
            if isinstance(scorer, LikelyNodes):
                bounds[name] = _bounds(scorer, experts, found, requests)
                print(_said(name, bounds[name]))
        if methods.reads_words and settings.query_instances:
            shutil.rmtree(scores)
            scores.mkdir()
            report["query_products"] = _for_queries(methods, settings, events, experts, width, scores)
        shutil.rmtree(scores)
        (folder / "combine.json").write_text(json.dumps(report, indent=1))


def _for_queries(
    methods: Methods,
    settings: CombineConfig,
    events: np.ndarray,
    experts: Sequence[LastScores],
    width: int | None,
    scores: Path,
) -> dict[str, Any]:
    """Weights of the products that read the words of a query, found on validation instances whose query is about their target, and is one
    that training may read; {} where no target has such words.
    """
    some = sample(events, settings.query_instances, settings.seed, "query instances")
    requests, targets = asked_about(methods.phrases.before_test(), some, settings.seed)
    if not requests:
        return {}
    asked = Differences(scores, requests, targets, methods.dataset.n_items)
    factors = [asked.add(one.scorer) for one in experts] + [asked.add(methods.scorer("text_search").scorer)]
    names, found = [*settings.experts, "words"], {WORDS: asked.fit(factors)}
    _print(WORDS, found[WORDS], names)
    if settings.generators:
        generator: Scorer = _generators(methods, settings)[1][1]  # type: ignore[assignment]
        scorer = generator if width is None else LikelyNodes(generator_of(generator), width)
        found[ASKED] = asked.fit([asked.add(scorer), *factors])
        _print(ASKED, found[ASKED], ["generator", *names])
    return {name: asdict(weights) for name, weights in found.items()}


WHAT = (
    "the generator's nodes_a_depth likeliest nodes of each depth are exact; below the others each item has an even share of "
    "its node's exact probability"
)


def _bounds(
    generator: LikelyNodes, experts: Sequence[Scorer], found: Weights, requests: Sequence[Request]
) -> dict[str, Any]:
    """How much of the product lies below nodes that were not forwarded, and how far the exact one can be (total variation)."""
    some = list(requests[:BOUNDED])
    every, weights = np.arange(generator.n_items), found.sharpened
    shares = []
    for request in some:  # one by one: each holds a catalogue's scores of every factor
        log_p, below = generator.looked_at([request])
        others = sum(
            weight * np.asarray(expert.scores([request]), np.float32)[0]
            for weight, expert in zip(weights[1:], experts, strict=True)
        )
        available = request.available(every)
        shares.append(remainder(log_p[0], below[0], np.asarray(others), weights[0], available))
    mass, distance = np.array(shares).T
    return {
        "instances": len(some),
        "mass_below_others": float(mass.mean()),
        "total_variation_at_most": float(distance.mean()),
        "total_variation_at_most_of_the_worst": float(distance.max()),
    }


def _said(name: str, bounds: dict[str, Any]) -> str:
    return (
        f"combine: {name}: approximate ({WHAT}); {bounds['mass_below_others']:.1%} of its mass is there, and it is at most "
        f"{bounds['total_variation_at_most']:.3f} from the exact product (total variation, mean of {bounds['instances']})"
    )


def _generators(methods: Methods, settings: CombineConfig) -> list[tuple[str, SidRecommender | None]]:
    """(name of the weights, generator): each generator of each of its training seeds, and none."""
    found: list[tuple[str, SidRecommender | None]] = [(ALONE, None)]
    for key in settings.generators:
        for seed in seeds_of(methods, key):
            generator = methods.build(key, seed)
            if not isinstance(generator, SidRecommender):
                raise ValueError(f"combine.generators: {key} is no generative method")
            found.append((f"{key}-{seed}", generator))
    return found


def _text_half_life(methods: Methods, requests: Sequence[Request], targets: np.ndarray) -> float:
    text = text_vectors(methods)
    rates = [
        retrieval_hits(
            HistoryVectors(text, half_life, "").vectors(requests)[0], text, requests, targets, 30
        ).mean()
        for half_life in TEXT_HALF_LIVES
    ]
    return TEXT_HALF_LIVES[int(np.argmax(rates))]


def _print(name: str, found: Weights, factors: Sequence[str]) -> None:
    weights = ", ".join(f"{factor} {value:.2f}" for factor, value in zip(factors, found.values, strict=True))
    best = min(found.nats_alone)
    print(
        f"combine: {name}: {weights}; {found.nats:.3f} nats a validation target, {best:.3f} by the best "
        f"expert alone; sharpened by 1 / {found.temperature:g}"
    )
