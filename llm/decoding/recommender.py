"""The generator as a `ProbabilisticRecommender`: one class for every row that the language model writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from llm.backbone.batching import BUDGET, by_length
from llm.decoding import draws, lists, scoring
from llm.decoding.draws import BEAM, MOST
from llm.decoding.left import nodes_of
from llm.decoding.session import PromptSession
from llm.decoding.whole_catalogue import all_log_probs, likely_log_probs, nodes_at_once
from llm.prompts.reading import Prompts, Reading
from recsys.data.caps import WIDEN, Caps
from recsys.recommender import Ranked, Request

COPIES = 6  # numbers of four bytes an item that a pass over a catalogue holds for a request at most
LARGE = (
    1 << 16
)  # items from which on they count among a request's bytes; below, batches are what they always were


class SidRecommender:
    """A method's reading of requests, answered by the frozen model.

    A request whose user vector is unknown (a new user, or nothing before `time`) is read without a vector's
    soft token: No Context is a trained mode, and the stated cold-start path.
    """

    draws = True

    def __init__(self, name: str, reading: Reading, budget: int = BUDGET):
        """`budget` (bytes) decides how many requests are read at once; see `llm.backbone.batching`."""
        self.name, self.reading, self.budget = name, reading, budget
        self.model = reading.model

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        """Temperature 0: the n most likely items, most likely first. Above: drawn without replacement, in draw order.

        Scores are log-probabilities in the whole catalogue (at `temperature`, or at 1 for 0), whatever the request leaves out: so
        an item's score does not depend on that. Less `log_left` they are those among what is available.
        """
        return self._listed(requests, n, temperature, seed, None)

    def playlist(
        self,
        requests: Sequence[Request],
        n: int,
        temperature: float = 0.0,
        seed: int = 0,
        in_sequence: bool = False,
        caps: Caps | None = None,
    ) -> list[Ranked]:
        """A list a request: as `recommend` makes it, but `in_sequence` and within `caps` where that is asked
        for (`llm.decoding.lists`).

        Scores are log p(item | prompt), or, in sequence, log p(item | prompt, the items before it), whose sum
        is the list's. Fewer than n items come back when no more are available or fit.
        """
        if in_sequence:
            return self._in_sequence(requests, n, temperature, seed, caps)
        return self._listed(requests, n, temperature, seed, caps)

    def list_log_prob(
        self,
        requests: Sequence[Request],
        given: Sequence[np.ndarray],
        temperature: float = 1.0,
        caps: Caps | None = None,
    ) -> list[np.ndarray]:
        """Exact log p of the items of one list a request, each after those before it
        (see `lists.log_prob`).
        """
        answers = [np.zeros(0)] * len(requests)
        longest = max((len(items) for items in given), default=0)
        for rows, _, session in self._sessions(requests, 1, self._growth(longest)):
            found = lists.log_prob(session, [given[row] for row in rows], temperature, caps)
            for row, values in zip(rows, found, strict=True):
                answers[row] = values
        return answers

    def draw(
        self, requests: Sequence[Request], n: int, temperature: float = 1.0, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        items = np.empty((len(requests), n), np.int64)
        values = np.empty((len(requests), n))
        for rows, some, session in self._sessions(requests, self._nodes(n), left=True):
            items[rows], values[rows] = draws.draw(session, some, n, seed, temperature)
        return items, values

    def log_left(self, requests: Sequence[Request], temperature: float = 1.0) -> np.ndarray:
        """log of the probability [R] of all that is available to each request: `log_prob` is the score of a list less this.

        −inf where nothing is available, NaN where it is not affordable (`llm.decoding.left`): such a request's `draw` and `log_prob`
        take exclusions node by node.
        """
        if not any(len(one.exclude) or one.allow is not None for one in requests):
            return np.zeros(len(requests))
        values = np.empty(len(requests))
        for rows, _, session in self._sessions(requests, self._nodes(1), left=True):
            values[rows] = session.left(temperature).log_total.cpu().numpy()
        return values

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """log p [R, N] (float32) of every item at temperature 1, with nothing excluded:
        a tree pass (`llm.decoding.whole_catalogue`).
        """
        n = self.model.trie.n_items
        scores, extra = np.empty((len(requests), n), np.float32), 4 * COPIES * n if n > LARGE else 0
        for rows, _, session in self._sessions(requests, nodes_at_once(self.model.trie), extra=extra):
            scores[rows] = all_log_probs(session).float().cpu().numpy()
        return scores

    def log_probs(self, requests: Sequence[Request], temperature: float = 1.0) -> np.ndarray:
        """log p [R, N] (float64) of every item for its request, as it is drawn: at `temperature`, among what
        the request may get; −inf where an item is not available.
        """
        n = self.model.trie.n_items
        values, extra = np.empty((len(requests), n)), 4 * COPIES * n if n > LARGE else 0
        for rows, _, session in self._sessions(requests, nodes_at_once(self.model.trie), extra=extra):
            values[rows] = all_log_probs(session, temperature).double().cpu().numpy()
        for row, request in zip(values, requests, strict=True):
            row[~request.available(np.arange(n))] = -np.inf
            if np.isfinite(row).any():
                row -= np.logaddexp.reduce(row)
        return values

    def likely_scores(self, requests: Sequence[Request], width: int) -> tuple[np.ndarray, np.ndarray]:
        """The same where the `width` likeliest nodes a depth are forwarded, and what of it is not exact
        (`whole_catalogue.likely_log_probs`): [R, N] (float32) and [R, N] (int32).
        """
        n = self.model.trie.n_items
        scores, below = np.empty((len(requests), n), np.float32), np.empty((len(requests), n), np.int32)
        for rows, _, session in self._sessions(requests, width, extra=4 * COPIES * n):
            found, node = likely_log_probs(session, width)
            scores[rows], below[rows] = found.cpu().numpy(), node.cpu().numpy()
        return scores, below

    def log_prob(
        self, requests: Sequence[Request], items: np.ndarray, temperature: float = 1.0
    ) -> np.ndarray:
        return self.log_prob_at(requests, items, (temperature,))[:, 0]

    def log_prob_at(
        self, requests: Sequence[Request], items: np.ndarray, temperatures: Sequence[float]
    ) -> np.ndarray:
        """`log_prob` at G temperatures [R, G] for the price of one."""
        kept = self._kept(requests)
        if kept is not None and kept[2].has_room(1, int(self._columns(requests).max(initial=0))):
            rows, _, session = kept
            values = np.empty((len(requests), len(temperatures)))
            values[rows] = draws.score(session, np.asarray(items)[rows], temperatures)
            return values
        return scoring.log_probs_of(self.reading, requests, items, temperatures, self.budget)

    def together(self, requests: Sequence[Request], n: int) -> list[np.ndarray]:
        """Places of the requests that are read at once for lists and draws of n: who asks about one such batch at a time has
        its prompts read once.
        """
        more = self._columns(requests)
        return list(self._batches(self.reading.prompts(requests), self._nodes(n), more))

    def _columns(self, requests: Sequence[Request]) -> np.ndarray:
        """Columns behind each prompt [R] for the nodes that say what its exclusions leave: none where a head knows them of itself."""
        read = self.model.head.reads_nodes
        return nodes_of(self.model.trie, requests) if read else np.zeros(len(requests), np.int64)

    def context_tokens(self, requests: Sequence[Request]) -> float:
        return self.reading.context_tokens(requests[:200])

    def _kept(self, requests: Sequence[Request]) -> tuple[np.ndarray, list[Request], PromptSession] | None:
        """What this recommender left with the model, if it was for these very requests."""
        owner, before, kept = self.model.kept_session or (None, [], None)
        same = owner is self and len(before) == len(requests)
        return kept if same and all(a is b for a, b in zip(before, requests, strict=True)) else None

    def _in_sequence(self, requests, n, temperature, seed, caps) -> list[Ranked]:
        answers: list[Ranked | None] = [None] * len(requests)
        nodes = 1 if temperature > 0 else BEAM
        for rows, some, session in self._sessions(requests, nodes, self._growth(n)):
            found = lists.in_sequence(session, some, n, seed, temperature, caps)
            for row, (items, scores) in zip(rows, found, strict=True):
                answers[row] = Ranked(items, scores)
        return [answer for answer in answers if answer is not None]

    def _listed(self, requests, n, temperature, seed, caps, width=0) -> list[Ranked]:
        """A request whose list needs a wider search than was planned for is read again,
        with fewer beside it.
        """
        answers: list[Ranked | None] = [None] * len(requests)
        again: list[int] = []
        width = min(max(width, self._nodes(n)), max(n, MOST))
        for rows, some, session in self._sessions(requests, width):
            if len(requests) == 1:
                width = max(n, MOST)  # alone it has all the memory
            found = lists.from_one_prompt(session, some, n, caps, seed, temperature, width)
            for row, one in zip(rows, found, strict=True):
                answers[row] = Ranked(one.items, one.scores, one.proven)
                if not one.finished:
                    again.append(int(row))
        if again:
            some = [requests[row] for row in again]
            for row, answer in zip(
                again, self._listed(some, n, temperature, seed, caps, WIDEN * width), strict=True
            ):
                answers[row] = answer
        return [answer for answer in answers if answer is not None]

    @staticmethod
    def _nodes(n: int) -> int:
        """Nodes a level that memory is planned for where n items are drawn or listed."""
        return WIDEN * max(n, BEAM)

    def _growth(self, n: int) -> int:
        """Columns that a list of n items takes behind a prompt:
        a path's nodes, where they are read, and its tokens, in buffers with room.
        """
        model = self.model
        nodes = model.trie.n_levels - 1 if model.head.reads_nodes else 0
        return 2 * n * (nodes + model.item_tokens.shape[1])

    def _batches(
        self, prompts: Prompts, nodes: int, growth: int | np.ndarray = 0, extra: int = 0
    ) -> Iterator[np.ndarray]:
        """Places of the prompts that fit into memory together; `growth` of all, or of each [R]."""
        model, reading = self.model, self.reading
        lengths = np.array([len(prompt) + reading.soft_tokens for prompt in prompts], np.int64) + growth
        return by_length(
            lengths, model.footprint, nodes, model.trie.n_levels, self.budget, reading.row_bytes + extra
        )

    def _sessions(
        self, requests: Sequence[Request], nodes: int, growth: int = 0, extra: int = 0, left: bool = False
    ) -> Iterator[tuple[np.ndarray, list[Request], PromptSession]]:
        """Prompts read, a batch at a time, with room for `nodes` a level, `growth` columns and `extra` bytes of each, and for
        the nodes that say what exclusions have `left`.

        The last call's is kept if it was one batch, so that drawing, listing, ranking and scoring for the
        same requests read their prompts once.
        """
        if not requests:
            return
        more = growth + self._columns(requests) if left else np.full(len(requests), growth)
        if (kept := self._kept(requests)) is not None and kept[2].has_room(nodes, int(more.max())):
            yield kept
            return
        self.model.kept_session = None  # before another is made
        model, reading = self.model, self.reading
        prompts = reading.prompts(requests)
        for rows in self._batches(prompts, nodes, more, extra):
            some = [requests[row] for row in rows]
            with torch.no_grad():
                placed, condition = reading.conditioned([prompts[row] for row in rows], some)
            session = PromptSession(model, placed, condition, scoring.constraints_of(model.trie, some))
            session.planned = nodes, int(more[rows].max())
            if len(rows) == len(requests):
                self.model.kept_session = (self, list(requests), (rows, some, session))
            yield rows, some, session
