"""The semantic-ID vocabulary: token numbers for (level, code), and a table of rows of our own for them.

Prompts are integer sequences over one numbering: text tokens are 0..V−1 as in the backbone, the token of code
c at level l is `V + offsets[l] + c`. The rows live beside the backbone rather than in its embedding matrix:
input rows are fed through `inputs_embeds`, and logits are taken over the codes of one level alone.
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

    Both start from what is known of a code, scaled to the norm of a text embedding, so that codes that are
    alike start near here: its vector in the codebook, under one random projection; the words of its items, as
    the mean of their token embeddings (a query's words then start out near the codes of what they describe);
    or both. They are trained apart from then on.
    """

    def __init__(self, sizes: Sequence[int], hidden_size: int):
        super().__init__()
        self.sizes = tuple(int(size) for size in sizes)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self.input = nn.Parameter(torch.zeros(int(self.offsets[-1]), hidden_size))
        self.output = nn.Parameter(torch.zeros(int(self.offsets[-1]), hidden_size))

    @torch.no_grad()
    def start_from(
        self,
        codebooks: Sequence[torch.Tensor | None],
        norm: float,
        seed: int,
        words: Sequence[torch.Tensor] | None = None,
        output_norm: float = 1.0,
    ) -> None:
        """Set all rows from `codebooks` (one [size, d] a level; None: random rows):
        input rows of mean norm `norm`, output rows of `output_norm`.

        `words` (one [size, h] a level) are mean embeddings of the codes' items in words (`words_of_codes`);
        both are then scaled alike and added.
        """
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
            if words is not None:
                rows = _to_norm(rows, 1.0) + _to_norm(words[level].to(rows), 1.0)
            rows = _to_norm(rows, norm)
            self.input[self.offsets[level] : self.offsets[level + 1]] = rows
            self.output[self.offsets[level] : self.offsets[level + 1]] = _to_norm(rows, output_norm)

    def logits(self, hidden: torch.Tensor, level: int) -> torch.Tensor:
        """Logits [P, sizes[level]] (float32) over the codes of `level` from hidden states [P, h]."""
        rows = self.output[self.offsets[level] : self.offsets[level + 1]]
        return hidden.float() @ rows.float().T


def _to_norm(rows: torch.Tensor, norm: float) -> torch.Tensor:
    """Rows [n, h] scaled so that their mean norm is `norm`."""
    return rows * (norm / rows.norm(dim=1).mean().clamp(min=1e-6))


def words_of_codes(items: torch.Tensor, codes: np.ndarray, sizes: Sequence[int]) -> list[torch.Tensor]:
    """What the items of each code have in common in words: one [size, h] a level.

    `items` [N, h]: mean token embeddings of the items' texts (`llm.stage1.records.BackboneEncoder.means`);
    `codes` [N, L]. A row is the mean over the code's items of what sets them apart from the whole catalogue;
    a code without an item has zeros.
    """
    apart = items.float() - items.float().mean(0)
    result = []
    for level, size in enumerate(sizes):
        code = torch.from_numpy(np.asarray(codes[:, level], dtype=np.int64)).to(apart.device)
        sums = apart.new_zeros(size, apart.shape[1]).index_add(0, code, apart)
        counts = torch.bincount(code, minlength=size)[:, None]
        result.append((sums / counts.clamp(min=1)).cpu())
    return result
