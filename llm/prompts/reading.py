"""How a method reads requests: it asks the builder for their prompts, and makes the condition (prefix, updates) beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from llm.backbone.conditions import NOTHING, Condition
from llm.backbone.sid_model import SidModel
from llm.prompts.builder import Context, PromptBuilder
from recsys.recommender import Request
from recsys.requests import Requests, some_of

Prompts = list[list[int]]


class Personalizer(nn.Module):
    """One way to condition the frozen model on users. Its parameters are what the method trains.

    `soft_tokens` is how many soft tokens it puts in front; `row_bytes` what a condition takes in memory for
    one request.
    """

    soft_tokens = 0
    row_bytes = 0
    per_user_parameters = 0  # numbers stored for each user
    user_rows: tuple[str, ...] = ()  # names of parameters whose row u is user u's
    step = 0  # of the training: what is random is keyed by it
    # place in the step's batch of the first request that is asked about, where processes share the batch
    first_row = 0

    @property
    def shared_parameters(self) -> int:
        """Numbers stored for all users together."""
        return sum(parameter.numel() for parameter in self.parameters())

    def condition(self, requests: Sequence[Request]) -> Condition:
        """The condition of each request, from what stands strictly before its time.
        Differentiable in the parameters.
        """
        raise TypeError(f"{type(self).__name__} does not say how it conditions")


@dataclass
class Reading:
    """A model, how it is asked, and what it is told about the user."""

    model: SidModel
    builder: PromptBuilder
    personalizer: Personalizer | None = None
    context: Context | None = None
    strength: float = 1.0  # soft tokens and updates are scaled by it; 0 to 1

    @property
    def soft_tokens(self) -> int:
        return 0 if self.personalizer is None or self.strength == 0 else self.personalizer.soft_tokens

    @property
    def row_bytes(self) -> int:
        """Bytes of a condition, for one request."""
        return 0 if self.personalizer is None else self.personalizer.row_bytes

    def prompts(self, requests: Sequence[Request]) -> Prompts:
        """Prompts without soft tokens."""
        return [self.builder.prompt(request, self.context) for request in requests]

    def conditioned(self, prompts: Prompts, requests: Sequence[Request]) -> tuple[Prompts, Condition]:
        """The same prompts with places for soft tokens, and what goes there."""
        if self.personalizer is None or not requests:
            return prompts, NOTHING
        condition = self.personalizer.condition(requests).scaled(self.strength)
        counts = condition.soft_tokens(len(requests)).tolist()
        places = zip(prompts, counts, strict=True)
        return [self.builder.with_soft_tokens(prompt, count) for prompt, count in places], condition

    def context_tokens(self, requests: Sequence[Request]) -> float:
        """Mean number of tokens that personal context adds to the shared prompt."""
        if self.context is None or not requests:
            return float(self.soft_tokens)
        plain = np.mean([len(self.builder.prompt(request)) for request in requests])
        return float(np.mean([len(prompt) for prompt in self.prompts(requests)]) - plain) + self.soft_tokens


class OfAnother(Personalizer):
    """A control: each request is conditioned as another one is, such as another user's (E2P-Random)."""

    def __init__(self, trained: Personalizer, requests: Sequence[Request], partner: np.ndarray):
        """`partner` [R]: the index in `requests` that request r borrows from
        (`recsys.embeddings.user_vectors.partners_of_other_users`).
        """
        super().__init__()
        self.trained, self.soft_tokens, self.row_bytes = trained, trained.soft_tokens, trained.row_bytes
        self._requests, self._partner = requests, partner
        self._places = (
            {}
            if isinstance(requests, Requests)
            else {request.request_id: at for at, request in enumerate(requests)}
        )

    def condition(self, requests: Sequence[Request]) -> Condition:
        places = [self._place(request.request_id) for request in requests]
        return self.trained.condition(some_of(self._requests, self._partner[places]))

    def _place(self, request_id: str) -> int:
        return (
            self._requests.place(request_id)
            if isinstance(self._requests, Requests)
            else self._places[request_id]
        )
