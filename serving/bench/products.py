"""How far products that forward only the likeliest nodes are from the exact ones: `python -m serving.bench.products RUN`.

For a finished run whose products are exact: KL and total variation against them, what is said to bound it, and what it does
to the expected hit-rate of 30 draws and to Recall@10, on validation instances.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from evaluation.metrics import expected_hit
from evaluation.product import Weights, remainder
from llm.decoding.whole_catalogue import inner_nodes
from llm.stage1.adapt import validation_events
from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.products import LikelyNodes, experts_of, generator_of
from serving.config.run import RunConfig

BLOCK = 64  # requests at once
NAMES = (
    "kl",
    "total_variation",
    "expected_hit_rate@30",
    "recall@10",
    "mass_below_others",
    "total_variation_at_most",
)


def distances(run: Path, widths: Sequence[int], instances: int) -> dict[str, Any]:
    """Of each product with a generator, exact and with each of `widths` nodes a depth: means over instances, ready for JSON."""
    opened = Run.open(run)
    methods = Methods(opened, RunConfig.model_validate(opened.read_config()))
    data, products = methods.dataset, methods.products
    if products is None or products.report.get("approximation") is not None:
        raise ValueError(f"{run} has no exact products; give a run with a finished stage combine")
    events = validation_events(data, instances, seed=0)
    asked, targets = data.block(events, data.exclude_seen), data.items[events]
    experts = experts_of(methods, products.settings, products.report["text_half_life_items"])
    found: dict[str, Any] = {
        "instances": len(asked),
        "items": data.n_items,
        "inner_nodes": inner_nodes(methods.model.trie),
    }
    for name, stored in products.report["products"].items():
        key, _, seed = name.rpartition("-")
        if not key:  # the experts alone
            continue
        generator, weights = generator_of(methods.scorer(key, int(seed))), Weights(**stored).sharpened
        parts: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(asked), BLOCK):
            some, own = asked[start : start + BLOCK], targets[start : start + BLOCK]
            scores = [np.asarray(one.scores(some), float) for one in experts]
            others = np.tensordot(weights[1:], scores, 1)
            out = np.stack([~request.available(np.arange(data.n_items)) for request in some])
            began = time.process_time()
            log_p = generator.scores(some)
            spent = time.process_time() - began
            exact = _product(weights[0], log_p, others, out)
            nothing = np.zeros((len(some), 2))
            parts.setdefault("exact", []).append(_figures(exact, exact, own, nothing, spent))
            for width in widths:
                began = time.process_time()
                log_p, below = LikelyNodes(generator, width).looked_at(some)
                spent = time.process_time() - began
                bounds = np.array(
                    [
                        remainder(log_p[row], below[row], others[row], weights[0], ~out[row])
                        for row in range(len(some))
                    ]
                )
                here = _product(weights[0], log_p, others, out)
                parts.setdefault(str(width), []).append(_figures(exact, here, own, bounds, spent))
        found[name] = {
            width: dict(
                zip((*NAMES, "cpu_seconds_a_request"), np.concatenate(some).mean(0).tolist(), strict=True)
            )
            for width, some in parts.items()
        }
    return found


def _product(gamma: float, log_p: np.ndarray, others: np.ndarray, out: np.ndarray) -> np.ndarray:
    """log p [b, N]; −inf where an item is not available."""
    return log_softmax(np.where(out, -np.inf, gamma * log_p.astype(float) + others), axis=1)


def _figures(
    exact: np.ndarray, here: np.ndarray, targets: np.ndarray, bounds: np.ndarray, seconds: float
) -> np.ndarray:
    """`NAMES` and the seconds of each request [b, 7]."""
    p, q = np.exp(exact), np.exp(here)
    kl = (p * (np.where(p > 0, exact, 0) - np.where(p > 0, here, 0))).sum(1)
    own = here[np.arange(len(here)), targets]
    columns = [
        kl,
        np.abs(p - q).sum(1) / 2,
        expected_hit(own, 30),
        (here >= own[:, None]).sum(1) <= 10,
        *bounds.T,
        np.full(len(here), seconds / len(here)),
    ]
    return np.stack(columns, 1)


def main() -> None:
    """Print the distances as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--instances", type=int, default=256)
    asked = parser.parse_args()
    print(json.dumps(distances(asked.run, asked.widths, asked.instances), indent=1))


if __name__ == "__main__":
    main()
