"""Soft prefixes: what stands in front of the prompt and says who is asking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from llm.backbone.conditions import Condition
from llm.prompts.reading import Personalizer
from recsys.embeddings.user_vectors import UserVectors
from recsys.recommender import Request
from recsys.seeds import torch_generator


class E2P(nn.Module):
    """Embedding-to-Prefix (E2P paper, eq. 2):  φ(c) = LayerNorm(ReLU(W₁ c)) W₂ + b, one soft token.

    c [B, d] user embeddings -> [B, 1, h]. W₁ [d_c, d] has no bias (eq. 2 shows none), W₂ [d_c, h] is used in
    row convention, and b [h] is the paper's. The input is brought to norm sqrt(d), which the paper does not
    say; W₂ starts such that ‖φ(c)‖ is about `norm`, the mean norm of a token embedding.
    """

    soft_tokens = 1

    def __init__(self, dim: int, bottleneck: int, hidden_size: int, norm: float = 1.0, seed: int = 0):
        super().__init__()
        self.w1 = nn.Linear(dim, bottleneck, bias=False)
        self.norm = nn.LayerNorm(bottleneck)
        self.w2 = nn.Linear(bottleneck, hidden_size, bias=True)
        generator = torch_generator(seed, "e2p")
        nn.init.normal_(self.w1.weight, std=dim**-0.5, generator=generator)
        nn.init.normal_(self.w2.weight, std=norm * (bottleneck * hidden_size) ** -0.5, generator=generator)
        nn.init.zeros_(self.w2.bias)

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        c = nn.functional.normalize(c, dim=-1) * c.shape[-1] ** 0.5
        return self.w2(self.norm(torch.relu(self.w1(c))))[:, None]


class StaticPrefix(nn.Module):
    """The control: the same φ fed one learned constant instead of a user's vector, so it is about nobody."""

    soft_tokens = 1

    def __init__(self, dim: int, bottleneck: int, hidden_size: int, norm: float = 1.0, seed: int = 0):
        super().__init__()
        self.phi = E2P(dim, bottleneck, hidden_size, norm, seed)
        self.constant = nn.Parameter(torch.randn(1, dim, generator=torch_generator(seed, "static")))

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        return self.phi(self.constant).expand(len(c), -1, -1)


class UserPrefix(Personalizer):
    """[φ(c)]: the soft token of each request's user vector; a request without a vector gets none."""

    soft_tokens = 1

    def __init__(self, phi: E2P | StaticPrefix, users: UserVectors):
        super().__init__()
        self.phi, self.users = phi, users

    def condition(self, requests: Sequence[Request]) -> Condition:
        vectors, known = self.users.vectors(requests)
        device = next(self.phi.parameters()).device
        return Condition(self.phi(torch.from_numpy(vectors).to(device)), known)


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def seeded_linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer whose weights are drawn from `generator` (variance 1 / n_in); its bias is zero."""
    layer = nn.Linear(n_in, n_out)
    with torch.no_grad():
        layer.weight.normal_(std=n_in**-0.5, generator=generator)
        layer.bias.zero_()
    return layer
