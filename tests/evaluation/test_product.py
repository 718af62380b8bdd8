"""Products of experts: weights against scikit-learn's conditional answer and a planted truth, and exactness of what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import chisquare

from evaluation import product as module
from evaluation import softmax
from evaluation.product import TEMPERATURES, Differences, Product, fit_weights, remainder
from evaluation.softmax import LastScores, SoftmaxOver, rows_at_once
from recsys.recommender import Request


class Table:
    """A scorer that looks its scores up by request id."""

    def __init__(self, name: str, scores: np.ndarray):
        self.name, self.table, self.calls = name, scores, 0

    def scores(self, requests):
        self.calls += 1
        return self.table[[int(request.request_id) for request in requests]]


def requests_of(n: int, excluded: np.ndarray | None = None) -> list[Request]:
    none = np.zeros(0, np.int64)
    return [Request(str(at), at, 0, exclude=none if excluded is None else excluded[at]) for at in range(n)]


@pytest.fixture(scope="module")
def world():
    """2,000 requests over 12 items whose targets are drawn from a product with known weights; two items are excluded from each."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 2000, 12)) * np.array([1.0, 0.3])[:, None, None]
    excluded = generator.permuted(np.tile(np.arange(12), (2000, 1)), axis=1)[:, :2]
    logits = 0.7 * first + 4.0 * second
    np.put_along_axis(logits, excluded, -np.inf, 1)
    targets = (log_softmax(logits, 1) + generator.gumbel(size=logits.shape)).argmax(1)
    return Table("a", first), Table("b", second), requests_of(2000, excluded), targets, excluded


def test_weights_are_those_that_the_targets_were_drawn_with(world):
    first, second, requests, targets, excluded = world
    found = fit_weights([first, second], requests, targets)
    assert found.values == pytest.approx([0.7, 4.0], rel=0.1)

    # the same likelihood by hand, and no other weights are better
    def nats(weights):
        logits = weights[0] * first.table + weights[1] * second.table
        np.put_along_axis(logits, excluded, -np.inf, 1)
        return -log_softmax(logits, 1)[np.arange(2000), targets].mean()

    assert found.nats == pytest.approx(nats(found.values), rel=1e-5)
    for move in ([0.05, 0], [-0.05, 0], [0, 0.2], [0, -0.2]):
        assert nats(np.array(found.values) + move) > found.nats
    alone = minimize_scalar(lambda weight: nats([weight, 0.0]), bounds=(0, 5), method="bounded").fun
    assert found.nats_alone[0] == pytest.approx(alone, abs=1e-4)


def test_an_expert_that_knows_nothing_gets_next_to_no_weight(world):
    first, _, requests, targets, _ = world
    noise = Table("noise", np.random.default_rng(5).normal(size=first.table.shape))
    assert fit_weights([first, noise], requests, targets).values[1] == pytest.approx(0, abs=0.1)


def test_a_target_that_is_excluded_is_refused(world):
    first, second, requests, targets, excluded = world
    wrong = targets.copy()
    wrong[7] = excluded[7, 0]
    with pytest.raises(ValueError, match="request '7' is not available"):
        fit_weights([first, second], requests, wrong)
    with pytest.raises(ValueError, match="2 experts need as many finite weights"):
        Product("p", [first, second], [1.0])


def test_draws_lists_and_scores_are_of_one_distribution(world):
    first, second, requests, _, excluded = world
    product = SoftmaxOver(Product("p", [first, second], [0.7, 4.0]), 1.0)
    logits = 0.7 * first.table[3] + 4.0 * second.table[3]
    logits[excluded[3]] = -np.inf
    p = np.exp(log_softmax(logits))
    drawn, log_p = product.draw([requests[3]], 4000, 1.0, seed=2)
    live = p > 0
    assert chisquare(np.bincount(drawn[0], minlength=12)[live], 4000 * p[live]).pvalue > 1e-3
    assert log_p[0] == pytest.approx(np.log(p[drawn[0]]), abs=1e-5)
    assert product.log_prob([requests[3]], np.array([5])) == pytest.approx(np.log(p[5]), abs=1e-5)
    ranked = product.recommend([requests[3]], 12)[0]
    assert ranked.items.tolist() == np.argsort(-p, kind="stable")[: live.sum()].tolist()


def test_what_was_asked_last_is_scored_once(world):
    first, second, requests, _, _ = world
    before = first.calls
    product = SoftmaxOver(Product("p", [first, second], [1.0, 1.0]), 1.0)
    some = requests[:50]
    product.recommend(some, 5), product.draw(some, 5), product.log_prob(some, np.zeros(50, int))
    assert first.calls == before + 1
    product.log_prob(requests[50:100], np.zeros(50, int))
    assert first.calls == before + 2


def test_the_sharpness_is_that_of_the_best_expected_hit_rate_of_30_draws(world):
    first, second, requests, targets, _ = world
    found = fit_weights([first, second], requests, targets)

    def rate(temperature):
        log_p = SoftmaxOver(Product("p", [first, second], found.values), temperature).log_prob(
            requests, targets
        )
        return (1 - (1 - np.exp(log_p)) ** 30).mean()

    rates = {temperature: rate(temperature) for temperature in TEMPERATURES}
    assert found.temperature == max(rates, key=rates.get)
    assert found.sharpened == pytest.approx(np.array(found.values) / found.temperature)


# -- in blocks ----------------------------------------------------------------------------------------------------


def test_the_weights_do_not_depend_on_the_block(world, monkeypatch):
    first, second, requests, targets, _ = world
    whole = fit_weights([first, second], requests, targets, 12)
    assert whole == fit_weights([first, second], requests, targets)  # up to 65,536 items a block is whole
    monkeypatch.setattr(softmax, "NUMBERS", 12 * 33)
    assert rows_at_once(12) == 33
    small = fit_weights([first, second], requests, targets, 12)
    assert small.values == pytest.approx(whole.values, rel=1e-3)
    assert small.nats == pytest.approx(whole.nats, abs=1e-6)
    assert small.temperature == whole.temperature


def test_memory_holds_a_block_of_instances(world, tmp_path, monkeypatch):
    """Counted by what is read, asked and held: never more than 12 items × 7 requests of a factor at a time."""
    first, second, requests, targets, _ = world
    monkeypatch.setattr(softmax, "NUMBERS", 12 * 7)
    read, asked = [], []
    honest = np.fromfile

    def watched(path, kind, count, **more):
        read.append(count)
        return honest(path, kind, count, **more)

    monkeypatch.setattr(module.np, "fromfile", watched)

    class Asked:
        def __init__(self, table):
            self.name, self.table = table.name, table

        def scores(self, some):
            asked.append(len(some))
            return self.table.scores(some)

    differences = Differences(tmp_path, requests, targets, 12)
    paths = [differences.add(Asked(table)) for table in (first, second)]
    differences.fit(paths)
    assert max(read) == 12 * 7
    assert max(asked) == 7
    assert sum(asked) == 2 * len(requests)  # each instance is scored once by each
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"0.f32": 2000 * 12 * 4, "1.f32": 2000 * 12 * 4, "unavailable": 2000 * 12}


def test_a_softmax_over_many_items_scores_fewer_requests_at_once_and_answers_alike(world, monkeypatch):
    first, second, requests, targets, _ = world
    product = Product("p", [first, second], [0.7, 4.0])
    whole = SoftmaxOver(product, 1.0)
    monkeypatch.setattr(softmax, "NUMBERS", 12 * 5)
    small, before = SoftmaxOver(product, 1.0, n_items=12), first.calls
    assert (small.log_prob(requests[:50], targets[:50]) == whole.log_prob(requests[:50], targets[:50])).all()
    assert first.calls == before + 10 + 1
    assert (small.draw(requests[:50], 5)[0] == whole.draw(requests[:50], 5)[0]).all()
    for mine, theirs in zip(
        small.recommend(requests[:50], 5), whole.recommend(requests[:50], 5), strict=True
    ):
        assert mine.items.tolist() == theirs.items.tolist()


def test_rows_that_share_a_scorer_ask_it_once(world):
    first, second, requests, targets, _ = world
    shared, before = LastScores(first), first.calls
    rows = [SoftmaxOver(Product("p", [shared, second], [weight, 1.0])) for weight in (0.5, 1.0, 2.0)]
    rows.append(SoftmaxOver(shared))
    found = []
    for some in (requests[:20], requests[20:40]):
        found += [row.log_prob(some, targets[:20]) for row in rows]
    assert first.calls == before + 2
    alone = [SoftmaxOver(Product("p", [first, second], [weight, 1.0])) for weight in (0.5, 1.0, 2.0)]
    wanted = [row.log_prob(some, targets[:20]) for some in (requests[:20], requests[20:40])
              for row in (*alone, SoftmaxOver(first))]  # fmt: skip
    np.testing.assert_array_equal(found, wanted)


# -- where the generator is known but for some nodes ---------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5, -0.5])
def test_the_exact_product_is_no_further_than_is_said(gamma):
    """Generated: nodes of 1 to 9 items, of some of which only the mass is known, against the product of all numbers."""
    generator = np.random.default_rng(int(10 * gamma) % 97)
    for _ in range(200):
        counts = generator.integers(1, 10, 12)
        node = np.repeat(np.arange(12), counts)
        n = len(node)
        p = generator.dirichlet(np.full(n, 0.2))
        others = generator.normal(size=n) * generator.choice([0.1, 1.0, 3.0])
        available = generator.random(n) > 0.2
        available[generator.integers(n)] = True
        left = generator.random(12) < 0.5
        below = np.where(left[node] & (counts[node] > 1), node, -1).astype(np.int32)
        known = p.copy()
        for one in np.unique(below[below >= 0]):
            known[below == one] = p[below == one].sum() / (below == one).sum()
        with np.errstate(divide="ignore"):
            truth, here = (
                np.exp(log_softmax(np.where(available, gamma * np.log(some) + others, -np.inf)))
                for some in (np.maximum(p, 1e-300), known)
            )
        share, at_most = remainder(np.log(np.maximum(known, 1e-300)), below, others, gamma, available)
        assert share == pytest.approx(here[below >= 0].sum(), abs=1e-9)
        assert np.abs(truth - here).sum() / 2 <= at_most + 1e-9
        assert 0 <= at_most <= 1 + 1e-12
    everything = np.full(n, -1, np.int32)
    assert remainder(np.log(np.maximum(p, 1e-300)), everything, others, gamma, available) == (0.0, 0.0)
