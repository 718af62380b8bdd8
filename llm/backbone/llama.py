"""Llama's layers for a frozen model: the numbers of transformers to the bit, in a process that need not import it.

transformers, with all that it imports for models that are sharded, compiled or trained, takes a process three times as long to
import as torch does: too long for one question, or for a worker. What answers from a run therefore loads the backbones that come
with it (`llm.backbone.load`) as this model; what trains, and every other architecture, has transformers' own. Modules and weights
bear the same names, so an adapter, a hook and a hash fit both.

RMSNorm (arXiv 1910.07467) before attention with rotary positions (2104.09864) and shared key heads (2305.13245), and before a
gated MLP (SwiGLU, 2002.05202), each added to what came in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llm.backbone.ragged import Layout, Memory, ragged_attention


@dataclass
class LlamaShape:
    """Sizes and constants, by the names that a checkpoint's config.json has for them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = False
    model_type: str = "llama"


class States(NamedTuple):
    last_hidden_state: Tensor


class Norm(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden_size))
        self.eps = shape.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        precise = x.to(torch.float32)
        precise = precise * torch.rsqrt(precise.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * precise.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape: LlamaShape, layer_idx: int):
        super().__init__()
        self.layer_idx, self.head_dim, self.scaling = layer_idx, shape.head_dim, shape.head_dim**-0.5
        queries, keys = (n * shape.head_dim for n in (shape.num_attention_heads, shape.num_key_value_heads))
        self.q_proj = nn.Linear(shape.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], **attention) -> Tensor:
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (part(x).view(heads).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k = _turned(q, *turn), _turned(k, *turn)
        out, _ = ragged_attention(self, q, k, v, None, scaling=self.scaling, **attention)
        return self.o_proj(out.reshape(*x.shape[:-1], -1).contiguous())


class MLP(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: LlamaShape, layer_idx: int):
        super().__init__()
        self.self_attn, self.mlp = Attention(shape, layer_idx), MLP(shape)
        self.input_layernorm, self.post_attention_layernorm = Norm(shape), Norm(shape)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], **attention) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn, **attention)
        return x + self.mlp(self.post_attention_layernorm(x))


class Rotary(nn.Module):
    """cos and sin [.., T, d] of the angles position · theta^(−2i/d), i < d/2, twice."""

    frequencies: Tensor

    def __init__(self, shape: LlamaShape):
        super().__init__()
        powers = torch.arange(0, shape.head_dim, 2, dtype=torch.float, device="cpu") / shape.head_dim
        self.register_buffer("frequencies", 1.0 / (shape.rope_theta**powers), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = positions[..., None].float() * self.frequencies.to(positions.device, torch.float)
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().to(dtype)[:, None], both.sin().to(dtype)[:, None]


class Llama(nn.Module):
    """inputs_embeds [B, T, h] to hidden states [B, T, h]; packed rows where a layout is given (`llm.backbone.ragged`)."""

    def __init__(self, shape: LlamaShape, table: Tensor | None = None):
        """`table` [V, h]: the token embeddings; None: drawn, as every other weight."""
        super().__init__()
        self.config = shape
        if table is None:
            self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        else:
            self.embed_tokens = nn.Embedding.from_pretrained(table)
        self.layers = nn.ModuleList(Layer(shape, number) for number in range(shape.num_hidden_layers))
        self.norm, self.rotary_emb = Norm(shape), Rotary(shape)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
        layout: Layout | None = None,
        memory: Memory | None = None,
        sees: Tensor | None = None,
    ) -> States:
        """Without a layout every row is a whole unpadded sequence, which begins at position 0."""
        assert not use_cache, "keys and values are kept in a `memory`"
        rows, width, _ = shape = inputs_embeds.shape
        if layout is None:
            layout = Layout([width] * rows, inputs_embeds.device)
            inputs_embeds, position_ids = inputs_embeds.reshape(1, rows * width, -1), layout.place[None]
        assert position_ids is not None
        x, turn = inputs_embeds, self.rotary_emb(position_ids, inputs_embeds.dtype)
        for layer in self.layers:
            x = layer(x, turn, layout=layout, memory=memory, sees=sees)
        return States(self.norm(x).view(shape))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, heads, T, d], each pair (i, i + d/2) turned by its angle."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos) + (torch.cat((-second, first), dim=-1) * sin)


@torch.no_grad()
def start_at_random(model: Llama, deviation: float = 0.02) -> None:
    """Normal weights, drawn in the order in which transformers draws them."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0.0, deviation)
