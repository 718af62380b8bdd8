"""An epoch of RQ-VAE on 100,000 × 384 vectors: ours, and it around vector-quantize-pytorch's ResidualVQ.

Both sides have the same layers, levels, sizes, batch, moving-average decay, commitment weight, rule for dead
codes, optimiser and learning rates, and take the same number of steps. The notes hold them to the same
reconstruction error and use of codes, and give the rate of encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.seeds import rng
from recsys.training.loop import cosine, keep_freed_memory
from semantic_ids.rqvae import RQVAE, RQVAEConfig, draw_weights, mlp
from serving.bench.case import Result, Timing, in_turn, seconds_of, timed

TARGET = 2.0
PEER = "vector-quantize-pytorch ResidualVQ, the same autoencoder"
SEED = 0
ROWS, DIM = 100_000, 384
SIZES = (256, 256, 256)  # TIGER's
CHUNK = 2048  # rows that a side encodes at once; the faster of 2,048 and 16,384 for both


@dataclass
class Side:
    """What trains one model and what is asked of it afterwards."""

    step: Callable[[int], Tensor]  # index → loss
    optimizer: torch.optim.Optimizer
    encode: Callable[[Tensor], Tensor]  # rows [n, dim] → codes [n, L]
    decode: Callable[[Tensor], Tensor]


def rqvae_epoch(quick: bool) -> list[Result]:
    """Seconds an epoch, timed by halves and in turn; the first half, in which the codebooks start,
    is not counted.
    """
    try:
        import vector_quantize_pytorch  # noqa: F401
    except ImportError as error:
        raise ValueError("this case needs its peer: pip install 'prelude-recsys[bench]'") from error
    keep_freed_memory()  # as training does; it is the whole process's, so the peer has it too
    repeats, half = 3 if quick else 12, -(-ROWS // RQVAEConfig().batch) // 2
    config = RQVAEConfig(steps=(1 + repeats) * half, warmup=half // 2)
    rows = torch.from_numpy(clustered(ROWS, DIM))
    model = RQVAE(DIM, SIZES, config)
    draw_weights(model, SEED)
    model.train()
    ours, peer = _ours(model, rows), _peer(config, rows, rotation_trick=True)
    timing = in_turn(_trainer(ours, half, config), _trainer(peer, half, config), repeats)
    timing = _scaled(timing, ROWS / config.batch / half)
    rate = _matrix_rate()
    floor = _training_flops(model) * ROWS / rate
    result = timed(
        "RQ-VAE epoch, 100k x 384",
        PEER,
        timing,
        TARGET,
        f"matrix products: {floor / float(np.median(timing.ours)):.0%} of the {rate / 1e9:.0f} GFLOP/s "
        "measured here",
        floor_s=floor,
        steps_trained=config.steps,
        **_named("", _quality(ours, rows)),
        **_named("peer_", _quality(peer, rows)),
        **_encoding(model, ours, peer, rows, rate),
        settling_s=seconds_of(lambda: model.settle(rows.numpy())),
        batch=config.batch,
        levels=SIZES,
        threads=torch.get_num_threads(),
        our_peak_bytes=timing.our_peak,
        peer_peak_bytes=timing.peer_peak,
    )
    result.notes.update(_named("settled_", _quality(ours, rows)), **_without_rotation(ours, rows, config))
    return [result]


def _without_rotation(ours: Side, rows: Tensor, config: RQVAEConfig) -> dict[str, object]:
    """The ratio against a peer whose gradient goes straight through, as ours,
    instead of its default rotation trick.
    """
    peer = _peer(config, rows, rotation_trick=False)
    timing = in_turn(
        _trainer(ours, 30, config, first=config.warmup), _trainer(peer, 30, config, first=config.warmup), 3
    )
    ratio, spread = timing.speedup
    return {"ratio_without_rotation_trick": ratio, "spread_without_rotation_trick": spread}


def _named(prefix: str, values: dict[str, object]) -> dict[str, object]:
    return {prefix + name: value for name, value in values.items()}


def _scaled(timing: Timing, factor: float) -> Timing:
    return replace(
        timing,
        ours=[factor * value for value in timing.ours],
        peers=[factor * value for value in timing.peers],
    )


def clustered(n: int, dim: int, clusters: int = 1000, rank: int = 48) -> np.ndarray:
    """Vectors [n, dim] of unit variance: a cluster's centre and a spread of their own
    in `rank` dimensions, and noise.
    """
    draw = rng(SEED, "clustered")

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape, dtype=np.float32)

    groups = normal(clusters // 20, rank)
    centres = groups[np.arange(clusters) % len(groups)] + 0.6 * normal(clusters, rank)
    inner = centres[draw.integers(0, clusters, n)] + 0.4 * normal(n, rank)
    rows = inner @ normal(rank, dim) / rank**0.5 + 0.1 * normal(n, dim)
    return ((rows - rows.mean(0)) / rows.std()).astype(np.float32)


# -- the two sides -------------------------------------------------------------------------------------------


def _ours(model: RQVAE, rows: Tensor) -> Side:
    return Side(
        lambda index: model.training_step(rows, SEED, index),
        model.optimizer(),
        lambda chunk: torch.from_numpy(model.encode(chunk.numpy())),
        lambda codes: torch.from_numpy(model.decode(codes.numpy())),
    )


def _peer(config: RQVAEConfig, rows: Tensor, rotation_trick: bool) -> Side:
    """ResidualVQ as its README has it: k-means start, dead codes replaced,
    the rotation trick (its default) or not.
    """
    from vector_quantize_pytorch import ResidualVQ

    torch.manual_seed(SEED)
    widths = [DIM, *config.hidden, config.latent]
    encoder, decoder = mlp(widths), mlp(widths[::-1])
    quantizer = ResidualVQ(
        dim=config.latent,
        num_quantizers=len(SIZES),
        codebook_size=SIZES,
        kmeans_init=True,
        decay=config.decay,
        commitment_weight=config.commitment,
        threshold_ema_dead_code=config.restart_below * config.batch / SIZES[0],
        rotation_trick=rotation_trick,
    )
    parameters = [*encoder.parameters(), *decoder.parameters()]

    def step(index: int) -> Tensor:
        quantizer.train()
        batch = rows.index_select(0, torch.randint(len(rows), (config.batch,)))
        quantized, _, commitment = quantizer(encoder(batch))
        return functional.mse_loss(decoder(quantized), batch) + commitment.sum()

    @torch.no_grad()
    def encode(chunk: Tensor) -> Tensor:
        quantizer.eval()
        return quantizer(encoder(chunk))[1]

    @torch.no_grad()
    def decode(codes: Tensor) -> Tensor:
        return decoder(quantizer.get_output_from_indices(codes))

    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return Side(step, optimizer, encode, decode)


def _trainer(side: Side, count: int, config: RQVAEConfig, first: int = 0) -> Callable[[], None]:
    """A call trains the next `count` steps, from `first` on, under the learning rates of `RQVAE.fit`."""
    done = first

    def train() -> None:
        nonlocal done
        for index in range(done, done + count):
            side.optimizer.param_groups[0]["lr"] = config.lr * cosine(index, config.steps, 20)
            side.optimizer.zero_grad()
            loss = side.step(index)
            float(loss.detach())
            loss.backward()
            side.optimizer.step()
        done += count

    return train


# -- what is said beside the ratio ---------------------------------------------------------------------------


def _quality(side: Side, rows: Tensor) -> dict[str, object]:
    """Share of the variance that decoding leaves, and of each level the perplexity of its
    codes and how many are unused.
    """
    codes = torch.cat([side.encode(chunk) for chunk in rows.split(CHUNK)])
    lost = sum(
        float((side.decode(c) - r).square().sum())
        for c, r in zip(codes.split(CHUNK), rows.split(CHUNK), strict=True)
    )
    uses = [torch.bincount(codes[:, level], minlength=size) for level, size in enumerate(SIZES)]
    shares = [use / use.sum() for use in uses]
    return {
        "error": lost / float((rows - rows.mean(0)).square().sum()),
        "perplexity": [round(float(torch.exp(-(p * p.clamp(min=1e-12).log()).sum())), 1) for p in shares],
        "unused_codes": [int((use == 0).sum()) for use in uses],
    }


def _encoding(model: RQVAE, ours: Side, peer: Side, rows: Tensor, rate: float) -> dict[str, float]:
    """Vectors a second of both sides, and the most that the matrix products allow."""
    chunks = rows[: 5 * CHUNK].split(CHUNK)

    def per_second(side: Side) -> float:
        return 5 * CHUNK / min(seconds_of(lambda: [side.encode(chunk) for chunk in chunks]) for _ in range(5))

    weights = sum(layer.weight.numel() for layer in model.encoder if isinstance(layer, nn.Linear))
    return {
        "encoded_per_s": per_second(ours),
        "peer_encoded_per_s": per_second(peer),
        "encoded_per_s_at_the_floor": rate / (2 * (weights + sum(SIZES) * model.config.latent)),
    }


def _training_flops(model: RQVAE) -> float:
    """FLOPs a row of a step's matrix products: forward, both gradients (none of the input's), distances."""
    layers = [
        layer for part in (model.encoder, model.decoder) for layer in part if isinstance(layer, nn.Linear)
    ]
    weights = sum(layer.weight.numel() for layer in layers)
    return 2 * (3 * weights - layers[0].weight.numel() + sum(SIZES) * model.config.latent)


def _matrix_rate() -> float:
    """FLOP/s of a product of the autoencoder's largest shape: the median of some."""
    x, weight = torch.randn(512, DIM), torch.randn(256, DIM)
    seconds = [seconds_of(lambda: [x @ weight.T for _ in range(10)]) for _ in range(20)]
    return 10 * 2 * x.numel() * len(weight) / float(np.median(seconds))
