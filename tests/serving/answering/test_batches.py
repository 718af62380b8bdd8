"""The figures of a run do not move with the bytes that a batch may take."""

from __future__ import annotations

import numpy as np

from llm.decoding.recommender import SidRecommender


def test_the_budget_changes_no_figure(tiny, small_run):
    from serving.answering.methods import Methods

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
