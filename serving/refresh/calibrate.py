"""How much a newcomer weighs (`llm.decoding.newcomers`): fitted on trained items that are treated as if nobody had seen them.

Validation's targets fall into `FOLDS` folds of items. Of an instance whose target is in fold S, each item of S is told by what a
newcomer is told by, the node above it and its content, and the weights are those under which the targets are likeliest among S:

    max_{λ, κ ≥ 0}  Σ log softmax_S(λ log p(v_i) + Σ κ_k cos_k(i))[target]

The offset a is then the one with which S, beside all other items with the generator's own probabilities, gets the mass that its targets
have; and log ρ more: how often an item that was as new was had, for one that was old, in the last tenth of the data's own time. The
node's probability has seen the events of its trained items before validation, so λ may be a little high; a newcomer's own is not in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm.decoding.newcomers import Content, Weights, depth_of, node_log_probs, nodes_above
from llm.decoding.recommender import SidRecommender
from llm.prompts.reading import Reading
from llm.stage1.adapt import validation_events
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, VALIDATION
from recsys.recommender import Request
from recsys.seeds import rng, sample
from semantic_ids.table import SemanticIdTable

FOLDS, MOST_INSTANCES, MOST_ITEMS = 10, 400, 2000  # of validation, and of a fold
LARGE = 1 << 16  # items from which on what a fold's items weigh is taken to be their share of the items
RECENT = 0.1  # of the data's training events by time: items that begin there were new there
LEAST_RHO, MOST_RHO = 0.25, 2.0
RIDGE = 1e-3  # of κ², so that a feature that says nothing has a weight of 0


def fit_weights(
    reading: Reading, data: Dataset, table: SemanticIdTable, content: Content, seed: int
) -> tuple[Weights, int, dict[str, Any]]:
    """The weights, the depth of the nodes, and what there is to say of them. `data` is the run's own, without newcomers."""
    model = reading.model
    depth = depth_of(model.trie, model.head)
    events = validation_events(data, MOST_INSTANCES, seed)
    fold = rng(seed, "newcomers", "folds").integers(0, FOLDS, table.n_base)
    features, targets, kept, others = [], [], [], []
    recommender = SidRecommender("No Context", reading)
    nodes = nodes_above(model.trie, table.codes[: table.n_base], depth)
    for number in range(FOLDS):
        items = sample(np.flatnonzero(fold == number), MOST_ITEMS, seed, "newcomers", "fold", number)
        mine = events[np.isin(data.items[events], items)]
        if not len(mine):
            continue
        requests = data.block(mine, False)
        above = _above(recommender, requests, depth)[:, nodes[items]]
        found = above[:, :, None]
        if content.readers:
            found = np.concatenate([found, content.features(requests, content.rows(items))], 2)
        features += list(found.astype(np.float64))
        targets += np.searchsorted(items, data.items[mine]).tolist()
        kept += [len(items)] * len(mine)
        inside = np.full(len(mine), len(items) / table.n_base)
        if table.n_base <= LARGE:
            inside = np.exp(recommender.scores(requests)[:, items].astype(np.float64)).sum(1)
        others += np.log1p(-inside.clip(max=1 - 1e-9)).tolist()
    if not features:
        return Weights(1.0, (0.0,) * len(content.readers), 0.0), depth, {"instances": 0}
    theta, gain = _likeliest(features, np.array(targets))
    share = float(np.mean(kept)) / table.n_base
    offset = _offset(features, theta, np.array(others), share)
    rho = popularity_of_new(data)
    weights = Weights(float(theta[0]), tuple(map(float, theta[1:])), offset + float(np.log(rho)))
    facts = {
        "instances": len(features),
        "nats_above_uniform": gain,
        "offset_of_trained": offset,
        "popularity_of_new": rho,
    }
    return weights, depth, facts


def _above(recommender: SidRecommender, requests: list[Request], depth: int) -> np.ndarray:
    found = None
    for rows, _, session in recommender._sessions(requests, recommender._nodes(1)):
        values = node_log_probs(session, depth).double().cpu().numpy()
        found = np.zeros((len(requests), values.shape[1])) if found is None else found
        found[rows] = values
    assert found is not None
    return found


def _likeliest(features: list[np.ndarray], targets: np.ndarray) -> tuple[np.ndarray, float]:
    """θ ≥ 0 [F] and the mean log-likelihood above that of a uniform guess. Concave, so any start will do."""
    from scipy.optimize import minimize

    n = features[0].shape[1]

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = RIDGE * float(theta @ theta), 2 * RIDGE * theta
        for rows, target in zip(features, targets, strict=True):
            scores = rows @ theta
            log_p = scores - np.logaddexp.reduce(scores)
            value -= float(log_p[target]) / len(features)
            slope = slope - (rows[target] - np.exp(log_p) @ rows) / len(features)
        return value, slope

    start = np.r_[0.5, np.ones(n - 1)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * n)
    uniform = float(np.mean([np.log(len(rows)) for rows in features]))
    return found.x, uniform - float(loss(found.x)[0])


def _offset(features: list[np.ndarray], theta: np.ndarray, others: np.ndarray, share: float) -> float:
    """The a with which folds get on average the `share` of the mass that their targets have; `others` [I]: log mass of all other items."""
    from scipy.optimize import brentq

    inside = np.array([np.logaddexp.reduce(rows @ theta) for rows in features])

    def excess(a: float) -> float:
        return float(np.mean(1 / (1 + np.exp(np.clip(others - inside - a, -60, 60))))) - share

    return float(brentq(excess, -60.0, 60.0))


def popularity_of_new(data: Dataset) -> float:
    """ρ: events an item that began in the last tenth of the training events' time had there, over events an older one had there.

    Within `LEAST_RHO` and `MOST_RHO`, for a k-core leaves of the new those that were taken at once; 1 where nothing began there.
    """
    training = training_events(data)
    if len(training) < 10:
        return 1.0
    times, items = data.times[training], data.items[training]
    since = np.quantile(times, 1 - RECENT)
    first = np.full(data.n_items, np.iinfo(np.int64).max)
    np.minimum.at(first, items, times)
    counts = np.bincount(items[times >= since], minlength=data.n_items)
    new, old = first >= since, first < since
    new &= first < np.iinfo(np.int64).max
    if not new.any() or not counts[old].any():
        return 1.0
    return float(np.clip(counts[new].mean() / counts[old].mean(), LEAST_RHO, MOST_RHO))


def training_events(data: Dataset) -> np.ndarray:
    """Events that are no test's."""
    return np.flatnonzero(np.isin(data.roles, (FIT, PERSONALIZE, VALIDATION)))
