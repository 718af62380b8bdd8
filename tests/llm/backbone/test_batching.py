"""Batches by bytes: all requests once, alike lengths together, never above the budget."""

from __future__ import annotations

import numpy as np
import pytest

from llm.backbone.batching import by_length
from llm.backbone.conditions import NOTHING
from llm.decoding import draws
from llm.decoding.session import PromptSession
from semantic_ids.constraints import Constraints
from tests.support.requests import make_requests

LENGTHS = [9, 2, 30, 2, 11, 30, 4, 5]


def prompts_of(lengths):
    return [[256, *range(length - 1)] for length in lengths]


@pytest.mark.parametrize("budget", [1, 200_000, 1_000_000, 1 << 30])
def test_batches_hold_every_prompt_once_and_keep_to_the_budget(tiny, budget):
    batches = list(by_length(LENGTHS, tiny.footprint, 5, 3, budget))
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(LENGTHS)))
    assert (np.diff(np.array(LENGTHS)[order]) >= 0).all()
    for batch in batches:
        longest = max(LENGTHS[index] for index in batch)
        assert len(batch) == 1 or len(batch) * tiny.footprint.of(longest, 5, 3) <= budget
    if budget == 1:
        assert len(batches) == len(LENGTHS)
    if budget == 1 << 30:
        assert len(batches) == 1


def test_a_budget_of_nothing_is_refused(tiny):
    with pytest.raises(ValueError, match="at least a byte, got 0"):
        next(by_length([1], tiny.footprint, 1, 1, 0))


def test_what_a_session_keeps_is_within_its_footprint(tiny):
    requests, nodes = make_requests(6), 12
    prompts = prompts_of([7] * 6)
    session = PromptSession(tiny, prompts, NOTHING, Constraints(tiny.trie, [[]] * 6))
    held = session.memory._layers.values()
    assert sum(x.nbytes for pair in held for x in pair) == 6 * 7 * tiny.footprint.kept
    draws.distinct(session, requests, nodes, seed=0)
    assert sum(x.nbytes for pair in held for x in pair) <= 6 * tiny.footprint.of(7, nodes, 3)
