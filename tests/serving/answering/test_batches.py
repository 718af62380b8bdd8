"""The figures of a run do not move with the bytes that a batch may take."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.table.measuring import Plan, measure
from llm.decoding import recommender as module
from llm.decoding.recommender import SidRecommender
from recsys.data.splits import TEST
from serving.answering.methods import Methods


def test_the_budget_changes_no_figure(tiny, small_run):
    config, run = small_run
    methods = Methods(run, config)
    requests = methods.dataset.requests(methods.dataset.events(2)[:11], False)
    targets = np.arange(11)
    answers = []
    for budget in (1, 300_000, 1 << 30):
        recommender = SidRecommender("No Context", methods.reading("no_context"), budget)
        items, values = recommender.draw(requests, 20, seed=4)
        lists = recommender.recommend(requests, 6, 1.0, seed=4)
        answers.append(
            (items, values, [one.items.tolist() for one in lists], recommender.log_prob(requests, targets))
        )
    for other in answers[1:]:
        assert (other[0] == answers[0][0]).all()
        np.testing.assert_allclose(other[1], answers[0][1], rtol=1e-4, atol=1e-5)
        assert other[2] == answers[0][2]
        np.testing.assert_allclose(other[3], answers[0][3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", ["no_context", "e2p"])
def test_an_evaluation_reads_a_prompt_once_whatever_fits_into_memory(small_run, monkeypatch, key):
    """Counted at the sessions: draws, lists, ranks and both temperatures of eleven requests read eleven prompts."""
    config, run = small_run
    methods = Methods(run, config)
    data = methods.dataset
    events = data.instances(TEST)[:11]
    requests, plan = data.block(events, True), Plan(key, 0, 30, (5, 10), 1.0, 0.5, (0, 1), True)
    read: list[int] = []
    honest = module.PromptSession

    def watched(model, prompts, *more):
        read.append(len(prompts))
        return honest(model, prompts, *more)

    monkeypatch.setattr(module, "PromptSession", watched)
    found = {}
    for budget in (1, 2_500_000, 1 << 30):
        read.clear()
        method = SidRecommender(key, methods.reading(key), budget)
        found[budget] = measure(method, requests, data.items[events], plan)
        assert sum(read) == 11
        assert len(read) == len(method.together(requests, 30))
    assert len(SidRecommender(key, methods.reading(key), 1).together(requests, 30)) == 11
    whole = found[1 << 30]
    for columns in found.values():
        assert list(columns) == list(whole)
        for name in whole:
            np.testing.assert_allclose(columns[name], whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
