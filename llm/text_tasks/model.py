"""The frozen backbone as a language model of text, conditioned on soft tokens.

It gives log-probabilities, labels, replies and vectors.

A sequence is [soft prefix][prompt][answer][end]. The soft prefix stands before everything, a BOS included.
The prompt wears the tokenizer's chat template where it has one, with an empty system message (a default one
would cost tokens and say nothing of the user), and else ends in "Answer: ". The answer's end is part of the
answer: without it "indie" could only be likelier than "indie rock".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm.backbone.load import Backbone, BackboneConfig, ByteTokenizer, load_backbone, text_head
from llm.backbone.ragged import Layout

SCALED = ("final_logit_softcapping", "logits_scaling", "logit_scale")  # heads that are more than one matrix


class TextModel(nn.Module):
    """`inner` maps inputs_embeds to hidden states, `head` [V, h] hidden states to logits
    (tied to the embeddings or not).
    """

    inner: Any

    def __init__(self, backbone: Backbone, head: Tensor, chat: bool = True):
        super().__init__()
        for name in SCALED:
            if getattr(backbone.model.config, name, None) not in (None, 1, 1.0):
                raise ValueError(
                    f"the backbone's head uses {name}, which is not supported here; take another"
                )
        self.inner, self.tokenizer, self.config = backbone.model, backbone.tokenizer, backbone.config
        self.head = nn.Parameter(head, requires_grad=False)
        self.device, self.encode, self.bos_id = backbone.device, backbone.encode, backbone.bos_id
        self.hidden_size = backbone.hidden_size
        self.chat = chat and getattr(backbone.tokenizer, "chat_template", None) is not None
        self.end_id = _end_id(backbone.tokenizer)

    # -- tokens ----------------------------------------------------------------------------------------------

    def prompt(self, text: str, longest: int | None = None) -> list[int]:
        """Tokens of a question, up to where the answer starts.

        Beyond `longest` its middle is left out: the question's beginning tells the task, its end what is
        asked.
        """
        if self.chat:
            turns = [{"role": "system", "content": ""}, {"role": "user", "content": "\0"}]
            template = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            before, _, after = template.partition("\0")
            head, tail = self.encode(before), self.encode(after)
        else:
            head, tail = ([] if self.bos_id is None else [self.bos_id]), self.encode("\nAnswer: ")
        body = self.encode(text)
        if longest is not None and len(body) > (room := max(2, longest - len(head) - len(tail))):
            body = [*body[: room // 2], *body[len(body) - (room - room // 2) :]]
        return [*head, *body, *tail]

    def answer(self, text: str, longest: int | None = None) -> list[int]:
        """Tokens of an answer and its end; an answer cut at `longest` has no end."""
        tokens = [*self.encode(text), self.end_id]
        return tokens if longest is None else tokens[:longest]

    # -- forward passes --------------------------------------------------------------------------------------

    def log_probs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], prefix: Tensor | None = None
    ) -> Tensor:
        """log p(answer | prefix, prompt) [B], summed over the answer's tokens;
        differentiable in `prefix` [B, m, h].
        """
        soft = 0 if prefix is None else prefix.shape[1]
        rows = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
        layout = Layout([soft + len(row) for row in rows], self.device)
        lengths = [len(answer) for answer in answers]
        ends = layout.ends.cpu().numpy()
        wanted = np.concatenate(
            [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        )
        hidden = self._forward(self._embed(rows, layout, prefix), layout.place, layout=layout)
        values = self._token_log_probs(hidden, wanted, list(chain.from_iterable(answers)))
        return _sums(values, lengths)

    def label_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        labels: Sequence[Sequence[Sequence[int]]],
        prefix: Tensor | None = None,
    ) -> list[Tensor]:
        """log p(label | prompt, one of the labels) [n_labels] of each row's closed set of labels.

        One packed pass: a row is its prompt once, then all of its labels side by side, each seeing the prompt
        and itself alone, at the positions that it would have right behind the prompt.
        """
        soft = 0 if prefix is None else prefix.shape[1]
        rows, heads = [], [soft + len(prompt) for prompt in prompts]
        for prompt, options in zip(prompts, labels, strict=True):
            rows.append([*prompt, *chain.from_iterable(option[:-1] for option in options)])
        layout = Layout([soft + len(row) for row in rows], self.device)
        positions, sees = _side_by_side(heads, labels, layout)
        wanted: list[int] = []
        tokens: list[int] = []
        lengths: list[int] = []
        starts = (layout.ends - layout.lengths).cpu().numpy()
        for start, head, options in zip(starts, heads, labels, strict=True):
            place = start + head
            for option in options:
                wanted += [start + head - 1, *range(place, place + len(option) - 1)]
                place += len(option) - 1
                tokens += option
                lengths.append(len(option))
        hidden = self._forward(self._embed(rows, layout, prefix), positions, layout=layout, sees=sees)
        values = self._token_log_probs(hidden, np.array(wanted), tokens)
        sums = _sums(values, lengths)
        return [part.log_softmax(0) for part in sums.split([len(options) for options in labels])]

    def text_vectors(self, texts: Sequence[str], longest: int) -> Tensor:
        """The last layer's hidden state [B, h] (float32) of each text's last token,
        of its last `longest` tokens.

        An empty text is its BOS alone, or its end where the tokenizer has no BOS.
        """
        first = self.end_id if self.bos_id is None else self.bos_id
        rows = [[first, *self.encode(text)[-longest:]] for text in texts]
        layout = Layout([len(row) for row in rows], self.device)
        hidden = self._forward(self._embed(rows, layout, None), layout.place, layout=layout)
        return hidden.index_select(0, layout.ends - 1).float()

    def _embed(self, rows: Sequence[Sequence[int]], layout: Layout, prefix: Tensor | None) -> Tensor:
        """Input embeddings [Q, h]: row b is prefix[b], then its tokens."""
        tokens = torch.from_numpy(np.fromiter(chain.from_iterable(rows), np.int64)).to(self.device)
        embedded = self.inner.get_input_embeddings()(tokens)
        if prefix is None:
            return embedded
        soft = layout.place < prefix.shape[1]
        packed = embedded.new_zeros(layout.n_tokens, embedded.shape[1])
        packed = packed.index_copy(0, torch.nonzero(~soft)[:, 0], embedded)
        return packed.index_copy(
            0, torch.nonzero(soft)[:, 0], prefix.reshape(-1, prefix.shape[2]).to(packed.dtype)
        )

    def _forward(self, embedded: Tensor, positions: Tensor, **attention) -> Tensor:
        return self.inner(
            inputs_embeds=embedded[None], position_ids=positions[None], use_cache=False, **attention
        ).last_hidden_state[0]

    def _token_log_probs(self, hidden: Tensor, places: np.ndarray, tokens: Sequence[int]) -> Tensor:
        """log p [S] of `tokens` [S] from the hidden states at `places` [S],
        each place's logits computed once.
        """
        distinct, inverse = np.unique(places, return_inverse=True)
        states = hidden.index_select(0, torch.from_numpy(distinct).to(self.device))
        table = nn.functional.linear(states, self.head).float().log_softmax(-1)
        flat = torch.from_numpy(inverse * table.shape[1] + np.array(tokens)).to(self.device)
        return table.reshape(-1).index_select(0, flat)

    # -- generation ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        prefix: Tensor | None = None,
        *,
        longest: int = 48,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """The answer to each prompt, at most `longest` tokens;
        greedy at temperature 0, else a draw from the whole model.

        transformers' `generate`, every knob set here: the checkpoint's own generation settings are not read.
        A draw depends on `seed` and the batch.
        """
        from transformers import GenerationConfig

        rows = [self._embed([row], Layout([len(row)], self.device), None) for row in prompts]
        if prefix is not None:
            rows = [torch.cat([soft.to(row.dtype), row]) for soft, row in zip(prefix, rows, strict=True)]
        width = max(len(row) for row in rows)
        embedded = torch.stack([nn.functional.pad(row, (0, 0, width - len(row), 0)) for row in rows])
        mask = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in rows]).to(self.device)
        knobs: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            knobs |= {"temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": None, "typical_p": 1.0}
        settings = GenerationConfig(
            max_new_tokens=longest, num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0, use_cache=True,
            eos_token_id=self.end_id, pad_token_id=self.end_id, bos_token_id=None, **knobs,
        )  # fmt: skip
        with self._causal_lm() as model, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            written = model.generate(inputs_embeds=embedded, attention_mask=mask, generation_config=settings)
        return [self._decode(row.tolist()) for row in written]

    @contextmanager
    def _causal_lm(self) -> Iterator[Any]:
        """transformers' own causal LM around the very same weights,
        with its own attention while it is in use.
        """
        from transformers import AutoModelForCausalLM

        config, ours = self.inner.config, self.inner.config._attn_implementation
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        setattr(model, model.base_model_prefix, self.inner)
        model.get_output_embeddings().weight = self.head
        try:
            model.set_attn_implementation("sdpa")
            yield model.eval()
        finally:
            self.inner.set_attn_implementation(ours)

    def _decode(self, tokens: Sequence[int]) -> str:
        tokens = list(tokens[: tokens.index(self.end_id)] if self.end_id in tokens else tokens)
        if isinstance(self.tokenizer, ByteTokenizer):
            return bytes(token for token in tokens if token < 256).decode(errors="replace").strip()
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def load_text_model(config: BackboneConfig, chat: bool = True) -> TextModel:
    """Load and freeze the backbone with its text head.
    A truncated backbone's head reads states that it never learned.
    """
    backbone = load_backbone(config)
    return TextModel(backbone, text_head(backbone).detach(), chat).eval().requires_grad_(False)


def _end_id(tokenizer: Any) -> int:
    """What ends an answer: the tokenizer's EOS; a byte tokenizer's only special token."""
    found = tokenizer.bos_token_id if isinstance(tokenizer, ByteTokenizer) else tokenizer.eos_token_id
    if found is None:
        raise ValueError("the backbone's tokenizer has no end-of-sequence token; take another backbone")
    return found


def _sums(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sums [n] of the n runs of `lengths` values that stand one after the other."""
    run = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(values.device)
    return values.new_zeros(len(lengths)).index_add(0, run, values)


def _side_by_side(heads: Sequence[int], labels, layout: Layout) -> tuple[Tensor, Tensor]:
    """Positions [Q] and who sees whom [B, W, W] of prompts of `heads` tokens with their labels behind."""
    sees = np.zeros((layout.n_rows, layout.width, layout.width), bool)
    positions = []
    for row, (head, options) in enumerate(zip(heads, labels, strict=True)):
        sees[row, :head, :head] = np.tri(head, dtype=bool)
        positions.append(np.arange(head))
        place = head
        for option in options:
            end = place + len(option) - 1
            sees[row, place:end, :head] = True
            sees[row, place:end, place:end] = np.tri(end - place, dtype=bool)
            positions.append(np.arange(head, head + end - place))
            place = end
        sees[row, place:, 0] = True  # behind the row's end: nobody reads these, but a softmax needs something
    flat = torch.from_numpy(np.concatenate(positions)).to(layout.lengths.device)
    return flat, torch.from_numpy(sees).to(layout.lengths.device)
