"""Drawing items inside the trie: i.i.d. sampling, sampling without replacement, the most likely items. All are exact.

A prompt is read once, and each level forwards only the *distinct* prefixes that some draw has reached
(`llm.decoding.session`). Exclusions and allow-lists condition the distribution as a whole: a list is that of the whole catalogue
with what is not available left out (`search`), and i.i.d. draws are of p(item) / (probability of all that is available)
(`llm.decoding.left`). The scores of a list are of the whole catalogue too, so that no item's depends on what is left out beside it.

Random numbers are derived from (seed, user, request id, time), never from a batch. Logits may differ in the
last bits with the shape of a batch (about 1e-6 relative), so a draw can differ between batchings only where a
uniform number falls that near to a boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.decoding.session import Nodes, PromptSession
from recsys.recommender import Request
from recsys.seeds import derive, rng, uniforms_at
from semantic_ids.constraints import Constraints
from semantic_ids.drawing import draw_children
from semantic_ids.trie_arrays import Mask

BEAM = 30  # nodes a level that a list is looked for with at first
MOST = 1024  # … and at most, where that does not prove the list
SLACK = 1e-4  # nats: logits of one node differ by less between two walks
Noise = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # rows [P], nodes [P], their depth -> [P, width]


def draw(
    session: PromptSession, requests: Sequence[Request], n: int, seed: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """`n` i.i.d. draws a request: items [R, n] and log-probabilities [R, n];
    −1 and −inf where nothing is allowed.

    Draw d of a request uses row d of its own uniform numbers, so the first draws do not depend on `n`.
    """
    levels = session.trie.n_levels
    uniforms = np.stack([stream(seed, request, "draw").random((n, levels)) for request in requests])
    session.make_room(n)
    return draw_with(session, uniforms, temperature, session.left(temperature))


def draw_with(
    session: PromptSession, uniforms: np.ndarray, temperature: float = 1.0, within: Mask | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """i.i.d. draws by given numbers `uniforms` [R, n, L] in [0, 1); see `draw`. Without a mask `within`
    exclusions are node by node.
    """
    within = session.constraints if within is None else within
    trie, device = session.trie, session.model.device
    n = uniforms.shape[1]
    uniform = torch.from_numpy(uniforms).to(device)[session.alive].reshape(-1, trie.n_levels)
    current = session.root()
    rows = current.row.repeat_interleave(n)
    member = torch.arange(len(current.row), device=device).repeat_interleave(n)  # a draw's place in `current`
    node, total = torch.zeros_like(rows), torch.zeros(len(rows), dtype=torch.float64, device=device)
    for depth in range(trie.n_levels if len(rows) else 0):
        logits = session.logits(depth, current)
        node, value = draw_children(
            trie, depth, current.node, logits, member, uniform[:, depth],
            temperature, within, current.row,
        )  # fmt: skip
        total += value
        key, inverse = torch.unique(rows * trie.n_nodes[depth + 1] + node, return_inverse=True)
        parent = torch.zeros_like(key).scatter_(0, inverse, member)
        current = Nodes(current.row[parent], key % trie.n_nodes[depth + 1], current.slots[parent])
        member = inverse
    items = torch.full((session.n_rows, n), -1, device=device)
    values = torch.full((session.n_rows, n), -torch.inf, dtype=torch.float64, device=device)
    items[session.alive] = trie.leaf_item[node].reshape(-1, n)
    values[session.alive] = total.reshape(-1, n)
    return items.cpu().numpy(), values.cpu().numpy()


def distinct(
    session: PromptSession,
    requests: Sequence[Request],
    n: int,
    seed: int,
    temperature: float = 1.0,
    width: int = MOST,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`n` items a request without replacement, in draw order, with their log-probabilities.

    Gumbel top-k over the leaves, top-down (stochastic beam search, Kool et al. 2019, arXiv 1903.06059, Alg.
    1): a node carries the largest perturbed log-probability below it; children are drawn conditioned on that
    maximum. A node's noise is its own, whatever else is looked at or left out, so a shorter list is the head of a longer
    one, and what is not available is skipped.
    """
    found = search(session, n, width, temperature, gumbels(session, requests, seed))
    return [(one.items, one.scores) for one in found]


def beam(session: PromptSession, n: int, width: int = MOST) -> list[tuple[np.ndarray, np.ndarray]]:
    """The `n` most likely items, most likely first, with their log-probabilities; what `width` nodes a level (≥ n) find of
    them.
    """
    return [(one.items, one.scores) for one in search(session, n, width)]


def gumbels(session: PromptSession, requests: Sequence[Request], seed: int) -> Noise:
    """Standard Gumbel numbers of the children of nodes: a request's, a node's and a child's own."""

    def noise(rows: np.ndarray, nodes: np.ndarray, depth: int) -> np.ndarray:
        width = session.trie.max_children[depth]
        keys = np.zeros(session.n_rows, np.uint64)
        for row in np.unique(rows):
            keys[row] = derive(seed, f"gumbel {depth}", *_names(requests[row]), bits=64)
        places = nodes[:, None] * width + np.arange(width)
        return -np.log(-np.log(np.maximum(uniforms_at(keys[rows, None], places), 1e-300)))

    return noise


@dataclass(frozen=True)
class Best:
    """The best leaves of a request that a search came to:
    `items` [k], log-probabilities, and what ranks them, falling.

    A leaf that the search did not come to has a rank of at most `dropped`, or one below theirs.
    """

    items: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    dropped: float

    @property
    def proven(self) -> int:
        """How many of the items, from the first, are the best of all."""
        return int((self.ranks >= self.dropped).sum())


def search(
    session: PromptSession,
    n: int,
    width: int = MOST,
    temperature: float = 1.0,
    noise: Noise | None = None,
    among: Constraints | None = None,
    wanted: torch.Tensor | None = None,
) -> list[Best]:
    """The best `n` items of each request that are available (or `among` what is), by log-probability or by that perturbed
    with `noise`; `Best.proven` of them for certain. Probabilities are of the whole catalogue.

    No leaf ranks above a node on its way. So a narrow walk finds n items, and where they are not proven, a second one looks at
    all nodes that rank as high as the n-th of them, up to `width` a level (≥ n): then they are.
    """
    narrow = min(max(n, BEAM), width)
    session.make_room(narrow)
    found = top_k(session, narrow, temperature, noise, among, wanted)
    floor = torch.full((session.n_rows,), torch.inf, dtype=torch.float64)
    for row, one in enumerate(found):
        if one.proven < min(n, len(one.items)):
            floor[row] = float(one.ranks[:n][-1]) - SLACK
    again = floor.isfinite().to(session.model.device)
    if narrow < width and bool(again.any()):
        floor = floor.to(session.model.device)
        wider = top_k(session, width, temperature, noise, among, again, floor=floor)
        found = [wider[row] if again[row] else one for row, one in enumerate(found)]
    return [Best(one.items[:n], one.scores[:n], one.ranks[:n], one.dropped) for one in found]


@torch.no_grad()
def top_k(
    session: PromptSession,
    k: int,
    temperature: float = 1.0,
    noise: Noise | None = None,
    among: Constraints | None = None,
    wanted: torch.Tensor | None = None,
    within: Mask | None = None,
    floor: torch.Tensor | None = None,
) -> list[Best]:
    """Walk down with the best k nodes a level: by log-probability, or by that perturbed with Gumbel `noise`.

    `among` (default: the session's constraints) narrows down what is looked for and leaves every probability as it is; `within`
    masks them. `wanted` (bool [R]): the requests to answer; default all. What ranks below `floor` [R] is not looked at.
    """
    among = session.constraints if among is None else among
    trie, device = session.trie, session.model.device
    current = session.root(wanted)
    phi = torch.zeros(len(current.row), dtype=torch.float64, device=device)
    perturbed = torch.zeros_like(phi)
    dropped = torch.full((session.n_rows,), -torch.inf, dtype=torch.float64, device=device)
    for depth in range(trie.n_levels):
        logits = session.logits(depth, current)
        log_probs, children = trie.child_log_probs(
            depth, current.node, logits, temperature, within, current.row
        )
        child_phi = phi[:, None] + log_probs.double()
        rank = child_phi
        if noise is not None:
            own = noise(current.row.cpu().numpy(), current.node.cpu().numpy(), depth)
            gumbel = torch.from_numpy(own).to(device)[:, : child_phi.shape[1]]
            rank = _conditioned(child_phi, gumbel, perturbed)
        looked_for = child_phi.isfinite()
        if floor is not None:
            looked_for &= rank >= floor[current.row, None]
        looked_for &= among.allowed(depth + 1, children, current.row[:, None].expand_as(children))
        parent, column = torch.nonzero(looked_for, as_tuple=True)
        value, row = rank[parent, column], current.row[parent]
        order, rest = best_of_each_row(row, value, session.n_rows, k)
        dropped.scatter_reduce_(0, row[rest], value[rest], "amax")
        order = order[torch.argsort(row[order] * trie.n_nodes[depth + 1] + children[parent, column][order])]
        parent, column = parent[order], column[order]
        phi, perturbed = child_phi[parent, column], rank[parent, column]
        current = Nodes(current.row[parent], children[parent, column], current.slots[parent])
    items, rows = trie.leaf_item[current.node].cpu().numpy(), current.row.cpu().numpy()
    ranks, scores, bounds = perturbed.cpu().numpy(), phi.cpu().numpy(), dropped.tolist()
    answers = []
    for request in range(session.n_rows):
        mine = np.flatnonzero(rows == request)
        mine = mine[np.argsort(-ranks[mine], kind="stable")]
        answers.append(Best(items[mine], scores[mine], ranks[mine], bounds[request]))
    return answers


@torch.no_grad()
def score(
    session: PromptSession,
    items: np.ndarray,
    temperatures: Sequence[float] = (1.0,),
    within: Mask | None = None,
) -> np.ndarray:
    """log p [R, G] (float64) of one item a request at G temperatures; −inf where it is not available.

    What `llm.decoding.scoring.log_probs` gives, for prompts that are read already. A mask `within` takes the place of
    what conditions the distribution as a whole.
    """
    trie = session.trie
    masks = [session.left(temperature) if within is None else within for temperature in temperatures]
    path = trie.path(torch.from_numpy(np.asarray(items, dtype=np.int64)))
    current = session.root()
    path = path[current.row]
    total = torch.zeros(len(path), len(temperatures), dtype=torch.float64, device=path.device)
    for depth in range(trie.n_levels):
        logits = session.logits(depth, current)
        column = (path[:, depth + 1] - trie.child_start[depth][path[:, depth]])[:, None]
        for index, temperature in enumerate(temperatures):
            log_probs, _ = trie.child_log_probs(
                depth, current.node, logits, temperature, masks[index], current.row
            )
            total[:, index] += log_probs.gather(1, column)[:, 0]
        current = Nodes(current.row, path[:, depth + 1], current.slots)
    result = torch.full(
        (session.n_rows, len(temperatures)), -torch.inf, dtype=torch.float64, device=path.device
    )
    result[current.row] = total
    return result.cpu().numpy()


def _conditioned(phi: torch.Tensor, gumbel: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
    """Gumbel(phi) for each child [P, W], conditioned on their maximum being `maximum` [P]
    (Kool et al., appendix B).
    """
    value = phi + gumbel
    top = value.max(1, keepdim=True).values
    target = maximum[:, None]
    v = target - value + torch.log1p(-torch.exp((value - top).clamp(max=0)))
    result = target - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs()))
    # v = −inf there: exactly the maximum
    result = torch.where(value == top, target.expand_as(result), result)
    return torch.where(phi.isfinite(), result, torch.full_like(result, -torch.inf))


def best_of_each_row(
    row: torch.Tensor, value: torch.Tensor, n_rows: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the k largest values of each row (all of them where there are fewer), falling, the earlier of equal ones
    first; and those of the others, in no order.

    Only what is at least as large as its row's k-th largest value is sorted.
    """
    if bool((row[1:] < row[:-1]).any()):
        by_row = torch.argsort(row, stable=True)
        best, others = best_of_each_row(row[by_row], value[by_row], n_rows, k)
        return by_row[best], by_row[others]
    counts = torch.bincount(row, minlength=n_rows)
    width = int(counts.max()) if len(row) else 0
    if width <= k:
        some, others = torch.arange(len(row), device=row.device), row[:0]
    else:
        starts = counts.cumsum(0) - counts
        table = value.new_full((n_rows * width,), -torch.inf)
        table[torch.arange(len(row), device=row.device) + (row * width - starts[row])] = value
        least = table.view(n_rows, width).topk(k, 1).values[:, -1]
        among = value >= least[row]
        some, others = torch.nonzero(among)[:, 0], torch.nonzero(~among)[:, 0]
    some = some[torch.argsort(value[some], descending=True, stable=True)]
    order = some[torch.argsort(row[some], stable=True)]
    place = torch.arange(len(order), device=row.device) - torch.searchsorted(row[order], row[order])
    return order[place < k], torch.cat([order[place >= k], others])


def stream(seed: int, request: Request, what: str) -> np.random.Generator:
    """A request's own numbers for one purpose."""
    return rng(seed, what, *_names(request))


def _names(request: Request) -> tuple[int, str, int]:
    return -1 if request.user is None else request.user, request.request_id, request.time
