"""RQ-VAE: an autoencoder with a residual code for a latent (Lee et al., 2203.01941; TIGER, 2305.05065).

Where this departs from the papers:
- Codebooks follow a moving average of what they code, as in Lee et al.; TIGER moves them by gradient.
- The first `warmup` steps train the autoencoder alone; k-means then starts the codebooks on its latents.
- A code that has fallen out of use is moved onto a random residual of the batch, until the last tenth of the
  training; then the codebooks settle by k-means steps on all latents (the network untouched).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.seeds import derive, rng, torch_generator
from recsys.training import loop
from semantic_ids.config import RQVAEConfig
from semantic_ids.quantizer import Quantizer, kmeans, nearest


class RQVAE(Quantizer):
    """Encoder, residual codebooks (moving averages), decoder; its phase is part of the state dict."""

    def __init__(self, dim: int, sizes: Sequence[int], config: RQVAEConfig):
        super().__init__(dim, sizes)
        self.config = config
        widths = [dim, *config.hidden, config.latent]
        self.encoder, self.decoder = mlp(widths), mlp(widths[::-1])
        for level, size in enumerate(self.sizes):
            self.register_buffer(f"codebook_{level}", torch.zeros(size, config.latent))
            self.register_buffer(f"count_{level}", torch.zeros(size))  # moving average of uses a step
            self.register_buffer(f"sum_{level}", torch.zeros(size, config.latent))  # … of the residuals coded
        self.register_buffer("started", torch.tensor(False))

    @property
    def codebooks(self) -> list[Tensor]:
        return [self.get_buffer(f"codebook_{level}") for level in range(len(self.sizes))]

    def latent(self, vectors: Tensor) -> Tensor:
        return self.encoder(vectors)

    def from_latent(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)

    def loss(self, vectors: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Lee et al. eq. 7–9, every term a mean over items and dimensions, so that neither drowns the other:

            ‖x − x̂‖² + β Σ_l ‖z − sg[ẑ_l]‖²,   ẑ_l = Σ_{m ≤ l} e^m[c_m],   x̂ = decoder(z + sg[ẑ_L − z])

        Returns it with the codes [n] and the residuals [n, d] (detached) that each level coded.
        """
        z = self.encoder(vectors)
        codes, residuals, left = self.quantise(z.detach())
        straight_through, commitment = Coded.apply(z, left)
        error = functional.mse_loss(self.decoder(straight_through), vectors)
        return error + self.config.commitment * commitment, codes, residuals

    @torch.no_grad()
    def quantise(self, z: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Of each level the codes [n], the residuals [n, d] that it coded, and what it left over,
        z − ẑ_l of [L, n, d].
        """
        codes, rest = [], [z]
        for codebook in self.codebooks:
            codes.append(nearest(rest[-1], codebook))
            rest.append(rest[-1] - codebook.index_select(0, codes[-1]))
        return codes, rest[:-1], torch.stack(rest[1:])

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the network, fused: one pass over memory."""
        config = self.config
        return torch.optim.AdamW(
            self.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )

    def training_step(self, rows: Tensor, seed: int, index: int) -> Tensor:
        """The loss of step `index` on its batch of `rows` [N, dim];
        past the warm-up the codebooks move with it.
        """
        config = self.config
        batch = _batch(rows, config.batch, seed, index)
        if index < config.warmup:
            return functional.mse_loss(self.decoder(self.encoder(batch)), batch)
        if not bool(self.started):
            self.start_codebooks(rows, seed)
        loss, codes, residuals = self.loss(batch)
        self.move_codebooks(codes, residuals)
        if index < 0.9 * config.steps:
            self.restart_dead(residuals, lambda: rng(seed, "restart", index))
        return loss

    def fit(self, vectors: np.ndarray, checkpoint: Path, seed: int, quiet: bool = False) -> dict:
        """See `Quantizer.fit`. Weights are drawn from `seed` here, whatever the constructor drew."""
        if len(vectors) < max(self.sizes):
            raise ValueError(
                f"RQ-VAE cannot start {max(self.sizes)} codes from {len(vectors)} vectors; use smaller levels"
            )
        config, rows = self.config, torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
        draw_weights(self, seed)
        self.train()

        curves = loop.fit(
            "RQ-VAE",
            config.steps,
            loop.trainable_state(self),
            self.optimizer(),
            lambda index: self.training_step(rows, seed, index),
            checkpoint,
            schedule=lambda index: loop.cosine(index, config.steps, 20),
            quiet=quiet,
        )
        if not bool(self.started):  # steps ≤ warmup
            self.start_codebooks(rows, seed)
        self.settle(vectors)
        return curves.as_dict()

    @torch.no_grad()
    def start_codebooks(self, rows: Tensor, seed: int) -> None:
        """K-means, level by level, on the residuals of a seeded sample of `rows` (256 a code)."""
        wanted = min(len(rows), 256 * max(self.sizes))
        chosen = rng(seed, "start").choice(len(rows), wanted, replace=False)
        rest = self.latent_of(rows[np.sort(chosen)].numpy())
        self.train()
        for level, codebook in enumerate(self.codebooks):
            means = kmeans(rest.numpy(), self.sizes[level], derive(seed, "start", level), tries=1, steps=10)
            codebook.copy_(torch.from_numpy(means))
            codes = nearest(rest, codebook)
            share = torch.bincount(codes, minlength=self.sizes[level]) / len(rest)
            count = (share * min(len(rows), self.config.batch)).clamp(min=1e-3)
            self.get_buffer(f"count_{level}").copy_(count)
            self.get_buffer(f"sum_{level}").copy_(count[:, None] * codebook)
            rest = rest - codebook[codes]
        self.get_buffer("started").fill_(True)

    @torch.no_grad()
    def move_codebooks(self, codes: Sequence[Tensor], residuals: Sequence[Tensor]) -> None:
        """n ← γn + (1 − γ)·uses, m ← γm + (1 − γ)·Σ residuals, e = m / n, for each code of each level."""
        decay, new = self.config.decay, 1 - self.config.decay
        for level, codebook in enumerate(self.codebooks):
            count, total = self.get_buffer(f"count_{level}"), self.get_buffer(f"sum_{level}")
            count.mul_(decay).add_(torch.bincount(codes[level], minlength=len(count)), alpha=new)
            total.lerp_(torch.zeros_like(total).index_add_(0, codes[level], residuals[level]), new)
            torch.div(total, count.clamp(min=1e-8)[:, None], out=codebook)

    @torch.no_grad()
    def restart_dead(self, residuals: Sequence[Tensor], generator: Callable[[], np.random.Generator]) -> int:
        """Move codes used less than `restart_below` × an even use onto random residuals; returns how many."""
        restarted, draw = 0, None
        for level, rest in enumerate(residuals):
            count, even = self.get_buffer(f"count_{level}"), len(rest) / self.sizes[level]
            least = self.config.restart_below * even
            if float(count.min()) >= least:
                continue
            draw = draw or generator()  # made only when needed: it takes as long as the rest of this function
            dead = torch.nonzero(count < least)[:, 0]
            found = rest[torch.from_numpy(draw.integers(0, len(rest), len(dead)))]
            self.codebooks[level][dead] = found
            count[dead] = even  # as if in even use: it has some steps to find its place
            self.get_buffer(f"sum_{level}")[dead] = found * even
            restarted += len(dead)
        return restarted

    @torch.no_grad()
    def settle(self, vectors: np.ndarray, rounds: int = 5) -> None:
        """Lloyd steps, level by level, on all latents; an unused code takes the worst-coded residual."""
        rest = self.latent_of(vectors)
        for codebook in self.codebooks:
            for _ in range(rounds):
                codes = nearest(rest, codebook)
                uses = torch.bincount(codes, minlength=len(codebook))
                means = torch.zeros_like(codebook).index_add_(0, codes, rest) / uses.clamp(min=1)[:, None]
                unused = torch.nonzero(uses == 0)[:, 0]
                if len(unused):
                    error = (rest - codebook.index_select(0, codes)).square().sum(1)
                    worst = error.topk(min(len(unused), len(rest))).indices
                    means[unused[: len(worst)]] = rest[worst]
                codebook.copy_(means)
            rest -= codebook.index_select(0, nearest(rest, codebook))


class Coded(torch.autograd.Function):
    """z [n, d] and what each level left over of it, z − ẑ_l of [L, n, d] → ẑ_L, and Σ_l mean‖z − sg[ẑ_l]‖².

    Nothing flows into the codebooks, which are buffers: the gradient of ẑ_L is that of z (straight through).
    """

    @staticmethod
    def forward(ctx, z: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(left)
        return z - left[-1], torch.dot(left.view(-1), left.view(-1)) / z.numel()

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (left,) = ctx.saved_tensors
        return gradients[0] + left.sum(0).mul_(2 * gradients[1] / left[0].numel()), None


def mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def draw_weights(module: nn.Module, seed: int) -> None:
    for name, parameter in module.named_parameters():
        if parameter.dim() == 2:
            nn.init.xavier_uniform_(parameter, generator=torch_generator(seed, "weights", name))
        else:
            parameter.zero_()


def _batch(rows: Tensor, size: int, seed: int, index: int) -> Tensor:
    if len(rows) <= size:
        return rows
    return rows.index_select(
        0, torch.randint(len(rows), (size,), generator=torch_generator(seed, "batch", index))
    )
