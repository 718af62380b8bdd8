"""The semantic-ID vocabulary: token numbers for (level, code), and a table of rows of our own for them.

Prompts are integer sequences over one numbering: text tokens are 0..V−1 as in the backbone, the token of code c at
level l is `V + offsets[l] + c`. The rows live beside the backbone rather than in its embedding matrix: input rows are
fed through `inputs_embeds`, and logits are taken over the codes of one level alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from recsys.seeds import torch_generator

PREFIX = -1  # where a soft token goes


class SidRows(nn.Module):
    """Input rows and output rows [Σ sizes, h] of the semantic-ID tokens.

    Both start from the codebook vectors under one random projection, scaled to the norm of a text embedding, so that
    codes that are near in the quantiser start near here. They are trained apart from then on.
    """

    def __init__(self, sizes: Sequence[int], hidden_size: int):
        super().__init__()
        self.sizes = tuple(int(size) for size in sizes)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self.input = nn.Parameter(torch.zeros(int(self.offsets[-1]), hidden_size))
        self.output = nn.Parameter(torch.zeros(int(self.offsets[-1]), hidden_size))

    @torch.no_grad()
    def start_from(self, codebooks: Sequence[torch.Tensor | None], norm: float, seed: int) -> None:
        """Set all rows from `codebooks` (one [size, d] a level; None: random rows) with mean row norm `norm`."""
        hidden = self.input.shape[1]
        for level, size in enumerate(self.sizes):
            generator = torch_generator(seed, "sid rows", level)
            codebook = codebooks[level] if level < len(codebooks) else None
            if codebook is None:
                rows = torch.randn(size, hidden, generator=generator)
            else:
                if len(codebook) != size:
                    raise ValueError(
                        f"level {level} has {size} codes but a codebook of {len(codebook)} vectors"
                    )
                centred = codebook.float() - codebook.float().mean(0)
                rows = centred @ torch.randn(codebook.shape[1], hidden, generator=generator)
            rows = rows * (norm / rows.norm(dim=1).mean().clamp(min=1e-6))
            self.input[self.offsets[level] : self.offsets[level + 1]] = rows
            self.output[self.offsets[level] : self.offsets[level + 1]] = rows / norm

    def logits(self, hidden: torch.Tensor, level: int) -> torch.Tensor:
        """Logits [P, sizes[level]] (float32) over the codes of `level` from hidden states [P, h]."""
        rows = self.output[self.offsets[level] : self.offsets[level + 1]]
        return hidden.float() @ rows.float().T
