"""The generator as a `ProbabilisticRecommender`: one class for every row of a table that the language model writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from llm import generate, scoring
from llm.batching import BUDGET, by_length
from llm.model import SidModel
from llm.prefixes import E2P, StaticPrefix
from llm.prompts import PromptBuilder
from recsys.recommender import Ranked, Request
from recsys.user_vectors import UserVectors

BEAM = 30  # nodes a level, at least


class SidRecommender:
    """Frozen model + optional soft prefix + optional text profile.

    With a `prefix`, a request whose user vector is unknown (a new user, or nothing before `time`) is read without
    one: No Context is a trained mode, and the stated cold-start path.
    """

    draws = True

    def __init__(
        self,
        name: str,
        model: SidModel,
        builder: PromptBuilder,
        prefix: E2P | StaticPrefix | None = None,
        users: UserVectors | None = None,
        profile: bool = False,
        budget: int = BUDGET,
    ):
        """`budget` (bytes) decides how many requests are read at once; see `llm.batching`."""
        if (prefix is None) != (users is None):
            raise ValueError("a prefix needs user vectors, and user vectors a prefix")
        self.name, self.model, self.builder, self.prefix = name, model, builder, prefix
        self.users, self.profile, self.budget = users, profile, budget

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        """Temperature 0: a beam of max(n, 30), most likely first. Above: drawn without replacement, in draw order.

        Scores are log-probabilities inside the trie (at `temperature`, or at 1 for the beam).
        """
        answers: list[Ranked | None] = [None] * len(requests)
        for rows, some, session in self._sessions(requests, max(n, BEAM)):
            if temperature > 0:
                found = generate.distinct(session, some, n, seed, temperature)
            else:
                found = generate.beam(session, n, max(n, BEAM))
            for row, (items, scores) in zip(rows, found, strict=True):
                answers[row] = Ranked(items, scores)
        return [answer for answer in answers if answer is not None]

    def draw(
        self, requests: Sequence[Request], n: int, temperature: float = 1.0, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        items = np.empty((len(requests), n), np.int64)
        values = np.empty((len(requests), n))
        for rows, some, session in self._sessions(requests, n):
            items[rows], values[rows] = generate.draw(session, some, n, seed, temperature)
        return items, values

    def log_prob(
        self, requests: Sequence[Request], items: np.ndarray, temperature: float = 1.0
    ) -> np.ndarray:
        return self.log_prob_at(requests, items, (temperature,))[:, 0]

    def log_prob_at(
        self, requests: Sequence[Request], items: np.ndarray, temperatures: Sequence[float]
    ) -> np.ndarray:
        """`log_prob` at G temperatures [R, G] for the price of one."""
        if (kept := self._kept(requests)) is not None:
            rows, _, session = kept
            values = np.empty((len(requests), len(temperatures)))
            values[rows] = generate.score(session, np.asarray(items)[rows], temperatures)
            return values
        prompts, soft = self._inputs(requests)
        return scoring.log_probs(self.model, prompts, items, soft, temperatures, requests, self.budget)

    def context_tokens(self, requests: Sequence[Request]) -> float:
        profile = self.builder.profile_token_count(requests[:200]) if self.profile else 0.0
        return profile + (0 if self.prefix is None else self.prefix.soft_tokens)

    @torch.no_grad()
    def soft_prefixes(self, requests: Sequence[Request]) -> torch.Tensor:
        """The soft tokens [R, m, h] that requests are given."""
        return self._soft(requests)[0]

    @torch.no_grad()
    def _soft(self, requests: Sequence[Request]) -> tuple[torch.Tensor, np.ndarray]:
        """Soft tokens, and which requests have a known user vector [R]."""
        assert self.prefix is not None
        assert self.users is not None
        vectors, known = self.users.vectors(requests)
        return self.prefix(torch.from_numpy(vectors).to(self.model.device)), known

    def _inputs(self, requests: Sequence[Request]) -> tuple[list[list[int]], torch.Tensor | None]:
        if self.prefix is None:
            return [self.builder.prompt(request, self.profile) for request in requests], None
        soft, known = self._soft(requests)
        prompts = [
            self.builder.prompt(request, self.profile, soft.shape[1] if has else 0)
            for request, has in zip(requests, known, strict=True)
        ]
        return prompts, soft

    def _kept(
        self, requests: Sequence[Request]
    ) -> tuple[np.ndarray, list[Request], generate.PromptSession] | None:
        """What this recommender left with the model, if it was for these very requests."""
        owner, before, kept = self.model.kept_session or (None, [], None)
        same = owner is self and len(before) == len(requests)
        return kept if same and all(a is b for a, b in zip(before, requests, strict=True)) else None

    def _sessions(
        self, requests: Sequence[Request], nodes: int
    ) -> Iterator[tuple[np.ndarray, list[Request], generate.PromptSession]]:
        """Prompts read, a batch at a time. The last call's is kept if it was one batch, so that drawing,
        listing, ranking and scoring for the same requests read their prompts once.
        """
        if not requests:
            return
        if (kept := self._kept(requests)) is not None and nodes <= kept[2].nodes:
            yield kept
            return
        self.model.kept_session = None  # before another is made
        prompts, soft = self._inputs(requests)
        model = self.model
        for rows in by_length(prompts, model.footprint, nodes, model.trie.n_levels, self.budget):
            some = [requests[row] for row in rows]
            session = generate.PromptSession(
                self.model,
                [prompts[row] for row in rows],
                None if soft is None else soft[torch.from_numpy(rows)],
                scoring.constraints_of(model.trie, some),
            )
            session.nodes = nodes
            if len(rows) == len(requests):
                self.model.kept_session = (self, list(requests), (rows, some, session))
            yield rows, some, session
