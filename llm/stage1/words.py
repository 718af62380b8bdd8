"""Words ↔ semantic IDs: what Stage 1 learns beside histories.

A query that it has not seen then reaches the right items.

    words → ID    "History:\\nQuery: blade runner" → <12><201><7>       a title, or one or two of the phrases
                  "History: <…><…>\\nQuery: noir sci-fi" → <12><201><7>      the same behind recent items
    ID → words    "Item: <12><201><7>\\nTitle:" → " Blade Runner\\n"    by the backbone's own head over text

The first two are the very prompts that `recommend(user, query)` reads, with one target each. The third is
what gives the rows of the semantic-ID tokens a meaning in words. Titles and phrases are of the catalogue and
of training alone (`recsys.data.phrases`): a held-out query stands in none of them. (As LC-Rec does with
instructions, arXiv 2311.09049; there all of the model is tuned.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from llm.backbone.sid_model import SidModel
from llm.prompts.builder import PromptBuilder
from llm.stage1.windows import Window
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.recommender import Request
from recsys.seeds import rng
from recsys.training import distributed

# shares of the rows that go from words to an ID; the others stand behind a history
TITLE, PHRASE = 0.25, 0.25


@dataclass(frozen=True)
class TextRow:
    """A token row whose last `answer` tokens are text to be predicted."""

    tokens: list[int]
    answer: int


class Words:
    """`windows(step)` and `titles(step)`: what an optimiser step learns of words, drawn from (seed, step)."""

    def __init__(
        self,
        dataset: Dataset,
        builder: PromptBuilder,
        phrases: Phrases,
        role: int,
        seed: int,
        batch: int,
        title_batch: int,
    ):
        self.dataset, self.builder, self.phrases, self.seed = dataset, builder, phrases, seed
        self.batch, self.title_batch = batch, title_batch
        self.events = dataset.events(role)
        weights = dataset.weighed(self.events)
        self.shares = None if weights is None else weights / weights.sum()  # of the rows behind a history

    def windows(self, step: int) -> list[Window]:
        """This process's share of `batch` rows from words to the ID of one item."""
        generator = rng(self.seed, "words to IDs", step)
        return [self._window(generator) for _ in range(self.batch)][distributed.share(self.batch)]

    def _window(self, generator: np.random.Generator) -> Window:
        data, builder, kind = self.dataset, self.builder, generator.random()
        if kind < TITLE + PHRASE or not len(self.events):
            item = int(generator.integers(data.n_items))
            request, query = Request("", None, 0), None
        else:
            event = int(generator.choice(self.events, p=self.shares))
            item, request = int(data.items[event]), data.request(event, False)
            query = None
        if kind >= TITLE:
            query = self.phrases.query(item, generator)
        prompt = builder.prompt(replace(request, query=query or data.catalogue.titles[item].lower()))
        tokens = prompt + builder.target_tokens[item].tolist()
        return Window(tokens, np.array([item]), np.array([len(prompt)]))

    def titles(self, step: int) -> list[TextRow]:
        """`title_batch` rows from an ID to the item's title;
        they are few, and every process computes all of them.
        """
        generator = rng(self.seed, "IDs to words", step)
        rows = []
        for item in generator.integers(self.dataset.n_items, size=self.title_batch).tolist():
            answer = self.builder.encode(f" {self.dataset.catalogue.titles[item]}\n")
            rows.append(TextRow(self.builder.question_about(item) + answer, len(answer)))
        return rows


def text_loss(model: SidModel, head: Tensor, rows: list[TextRow]) -> Tensor:
    """−mean log p(token | what stands before it) over the answers of text rows;
    `head` [V, h] gives logits over text.
    """
    packed = model.pack([row.tokens for row in rows])
    ends = packed.layout.ends.cpu().numpy()
    wanted = np.concatenate([np.arange(end - row.answer, end) for end, row in zip(ends, rows, strict=True)])
    targets = packed.tokens[torch.from_numpy(wanted).to(model.device)]
    states = model.hidden(packed, wanted=torch.from_numpy(wanted - 1).to(model.device))
    return nn.functional.cross_entropy(nn.functional.linear(states, head).float(), targets)
