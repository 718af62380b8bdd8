"""One seed per run; every generator is derived from `(seed, *keys)`.

Nothing here keeps state, so batch size, worker count and request order change no draw: a request's numbers depend
only on the keys that name it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Key = int | str


def derive(seed: int, *keys: Key, bits: int = 63) -> int:
    """A `bits`-bit integer that depends on `seed` and on every key, in order and by type (1 and "1" differ)."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in (int(seed), *map(_plain, keys)))
    digest = hashlib.blake2b(text.encode(), digest_size=32).digest()
    return int.from_bytes(digest, "little") & ((1 << bits) - 1)


def rng(seed: int, *keys: Key) -> np.random.Generator:
    """NumPy generator for `(seed, *keys)`: Philox, so distinct keys give independent streams."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *keys, bits=128)))


def torch_generator(seed: int, *keys: Key) -> torch.Generator:
    """Torch CPU generator for `(seed, *keys)`."""
    return torch.Generator().manual_seed(derive(seed, *keys))


def _plain(key: Key) -> Key:
    return key if isinstance(key, str) else int(key)
