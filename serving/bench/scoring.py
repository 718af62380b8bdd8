"""Expected hit-rate over a test set: exact scoring against sampling until sampling is as good as exact."""

from __future__ import annotations

import numpy as np

from llm.backbone.load import BackboneConfig
from llm.decoding import draws, scoring
from serving.bench import world
from serving.bench.case import Result, in_turn, timed

INSTANCES = 1000  # quick: 50, the ratio is the same
PROMPT = 20  # tokens
DRAWS = 30
PRECISION = 0.05  # sampling error over the between-user standard error
SHARPNESS = 1.6  # of the random model: gives a mean expected hit-rate near .1, as a trained one has


def expected_hit_rate(quick: bool) -> list[Result]:
    """1,000 instances (quick: 50), targets drawn from the model itself,
    a small decoder (128 wide, 4 layers), 10,000 items.

    The peer is our own sampler, prompts read once: rounds of 30 i.i.d. draws, more of them until the standard
    error that sampling adds to the mean is 5 % of the standard error over users.
    """
    n = 50 if quick else INSTANCES
    model = world.sid_model(BackboneConfig(name="scratch", layers=4, device="cpu"), 10_000)
    model.rows.output.data *= SHARPNESS
    prompts = world.rng(0, "bench prompts").integers(0, 256, (n, PROMPT)).tolist()
    asked = world.requests(n)
    targets = draws.draw(world.session(model, prompts), asked, 1, seed=99)[0][:, 0]
    found: dict[str, float] = {}

    def exact() -> None:
        p = np.exp(scoring.log_probs(model, prompts, targets)[:, 0])
        hit = 1 - (1 - p) ** DRAWS
        found["exact"], found["between"] = hit.mean(), hit.std(ddof=1)

    def sampled() -> None:
        """Rounds double until the error is small enough; every round counts."""
        session = world.session(model, prompts)
        hits, rounds, seed = np.zeros(n), 0, 0
        while True:
            wanted = max(rounds, 8)
            items = draws.draw(session, asked, DRAWS * wanted, seed=seed)[0]
            hits += (items.reshape(n, wanted, DRAWS) == targets[:, None, None]).any(2).sum(1)
            rounds, seed = rounds + wanted, seed + 1
            mean = hits / rounds
            # variance that sampling adds to one instance's mean
            within = (mean * (1 - mean)).mean() / (rounds - 1)
            between = mean.var(ddof=1) - within
            found["sampled"], found["rounds"] = mean.mean(), rounds
            found["error"] = (within / n) ** 0.5
            if within <= PRECISION**2 * between:
                return

    timing = in_turn(exact, sampled, 2 if quick else 3, warm_up=False)
    return [
        timed(
            f"expected hit-rate@30 over {n:,} instances",
            "sampling rounds of 30 draws, prompts read once, until the sampling error is 5 % of the users' "
            "standard error",
            timing,
            10.0,
            "one forward pass over the prompts and their targets' codes",
            exact=float(found["exact"]),
            sampled=float(found["sampled"]),
            sampling_error=float(found["error"]),
            rounds=found["rounds"],
        )
    ]
