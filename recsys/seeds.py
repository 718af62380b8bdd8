"""One seed per run; every generator is derived from `(seed, *keys)`.

Nothing here keeps state, so batch size, worker count and request order change no draw: a request's numbers
depend only on the keys that name it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

Key = int | str


def derive(seed: int, *keys: Key, bits: int = 63) -> int:
    """A `bits`-bit integer that depends on `seed` and on every key, in order and by type
    (1 and "1" differ).
    """
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in (int(seed), *map(_plain, keys)))
    digest = hashlib.blake2b(text.encode(), digest_size=32).digest()
    return int.from_bytes(digest, "little") & ((1 << bits) - 1)


def rng(seed: int, *keys: Key) -> np.random.Generator:
    """NumPy generator for `(seed, *keys)`: Philox, so distinct keys give independent streams."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *keys, bits=128)))


def sample(values: np.ndarray, at_most: int, seed: int, *keys: Key) -> np.ndarray:
    """At most `at_most` of `values` [n], drawn without replacement by the stream of `(seed, *keys)`, ascending; `values` as they are where
    those are no more, or `at_most` is 0.
    """
    if not at_most or len(values) <= at_most:
        return values
    return np.sort(rng(seed, *keys).choice(values, at_most, replace=False))


def uniforms_at(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) that *places* have: entry `places` of the sequence of the 64-bit `keys`
    (broadcast).

    SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators"), whose n-th output is a
    function of seed + n · γ, so that any entry is had without those before it, in any order and company.
    """
    z = keys.astype(np.uint64) + (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)) * 2.0**-53


def torch_generator(seed: int, *keys: Key) -> torch.Generator:
    """Torch CPU generator for `(seed, *keys)`."""
    return torch.Generator().manual_seed(derive(seed, *keys))


@contextmanager
def torch_draws(device: torch.device, seed: int, *keys: Key) -> Iterator[None]:
    """Inside, torch's own generators draw what `(seed, *keys)` says, whatever was drawn before;
    outside, nothing has changed.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, *keys))
        yield


def _plain(key: Key) -> Key:
    return key if isinstance(key, str) else int(key)
