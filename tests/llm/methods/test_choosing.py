"""What Stage 2 is chosen by: the log-likelihood of targets in the whole catalogue, and what is said of a prefix that adds nothing."""

from __future__ import annotations

import numpy as np
import pytest

from llm.decoding import scoring
from llm.methods.personalize import _print_summary
from llm.methods.stage2 import WITHOUT, lm_loss
from llm.prompts.reading import Reading
from tests.support.requests import make_requests
from tests.support.slow_references import Prompts, inputs, slow_distribution


def test_the_loss_and_what_chooses_are_the_likelihood_in_the_whole_catalogue(tiny):
    requests = make_requests(6)
    prompts, _ = inputs(tiny, requests, False)
    reading = Reading(tiny, Prompts(prompts))
    targets = np.array([request.exclude[0] if row % 2 else 7 for row, request in enumerate(requests)])
    none = np.zeros(0, np.int64)
    slow = [
        np.log(slow_distribution(tiny, prompt, None, none, 1.0)[target])
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    assert scoring.log_likelihood(reading, requests, targets) == pytest.approx(np.mean(slow), abs=1e-5)
    assert scoring.shared_log_likelihood(reading, requests, targets) == pytest.approx(np.mean(slow), abs=1e-5)
    assert float(lm_loss(reading, requests, targets)) == pytest.approx(-np.mean(slow), abs=1e-5)


def test_a_method_that_is_not_above_nothing_is_said_to_be(capsys):
    part = {
        "trainable_parameters": 5,
        "learning_rate": 1e-3,
        "validation_log_likelihood": -6.5,
        WITHOUT: -6.4,
    }
    better = part | {"validation_log_likelihood": -6.3}
    _print_summary({"methods": {"worse-0": part, "better-0": better}, "frozen_hash_after": "0" * 64})
    worse, better, _ = capsys.readouterr().out.splitlines()
    assert "validation -6.5000 nats a target, -6.4000 without it; it is not above nothing" in worse
    assert "above" not in better
