"""Words ↔ semantic IDs: prompts are those that `recommend` reads, held-out texts are in none, and the text loss is a plain
cross-entropy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows, words_of_codes
from llm.decoding.recommender import SidRecommender
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.reading import Reading
from llm.stage1.config import AdaptConfig
from llm.stage1.model import OUTPUT_NORM, new_model
from llm.stage1.understanding import known_and_held_out, mean_precision, query_precision
from llm.stage1.words import TextRow, Words, text_loss
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, TEST
from semantic_ids.table import SemanticIdTable
from semantic_ids.trie import Trie
from tests.support.catalogues import SIZES, unique_codes

N = 30


KINDS = ["Comedy", "Drama", "Horror"]


def world() -> Dataset:
    ids = np.array([f"i{item}" for item in range(N)], dtype=object)
    catalogue = Catalogue(
        ids, [f"Film {item}" for item in range(N)], {"genres": [[KINDS[item % 3]] for item in range(N)]}
    )
    users, items = np.repeat([0, 1], 12), np.tile(np.arange(12), 2)
    roles = np.tile(np.where(np.arange(12) < 10, FIT, TEST), 2)
    queries = pd.DataFrame(
        [(1, item, 1, f"tag {item}") for item in range(10)], columns=["user", "item", "timestamp", "query"]
    )
    return Dataset(np.array(["u0", "u1"], dtype=object), catalogue, users, items, np.tile(np.arange(12), 2) * 10,
                   np.ones(24, np.float32), roles.astype(np.int8), queries, held_out_queries=0.3)  # fmt: skip


def text_of(tokens, model) -> str:
    return bytes(token for token in tokens if token < 256).decode()


def parts(model, seed: int = 0, batch: int = 200, title_batch: int = 50):
    data = world()
    builder = PromptBuilder(
        PromptConfig(recent_items=2), data.catalogue, model.encode, model.bos_id, model.item_tokens
    )
    return data, builder, Words(data, builder, Phrases(data), FIT, seed, batch, title_batch)


def test_rows_are_the_prompts_that_are_read_and_end_in_the_items_codes(tiny):
    data, builder, words = parts(tiny)
    phrases, seen = words.phrases, {"title": 0, "phrase": 0, "history": 0}
    for window in words.windows(3):
        (item,), (start,) = window.items, window.starts
        assert window.tokens[start:] == tiny.item_tokens[item].tolist()
        asked = text_of(window.tokens, tiny).split("Query: ")[1].split("\n")[0]
        history = (len(window.tokens) - len(builder.head([]) + builder.asked(asked))) // 3 - 1
        seen["history" if history else "title" if asked.startswith("film") else "phrase"] += 1
        if asked.startswith("film"):
            assert asked == data.catalogue.titles[item].lower()
        else:
            match = phrases.matching(asked)
            assert match is not None
            assert match[item]
            assert not phrases.is_held_out(asked)
        if history:  # of FIT events alone: items 10 and 11 are tested on
            assert item < 10
    assert min(seen.values()) > 20


def test_what_stands_before_an_item_is_older_than_it(tiny):
    """In this world every user meets item i at time 10 i: the items of a prompt are smaller than its target."""
    _, _, words = parts(tiny)
    number = {tuple(tokens): item for item, tokens in enumerate(tiny.item_tokens.tolist())}
    checked = 0
    for window in words.windows(1):
        codes = [token for token in window.tokens if token >= tiny.text_size]
        items = [number[tuple(codes[at : at + 3])] for at in range(0, len(codes), 3)]
        assert items[-1] == window.items[0]
        if len(items) > 1:
            assert max(items[:-1]) < items[-1]
            checked += 1
    assert checked > 50


def test_a_step_draws_the_same_rows_whenever_it_is_asked(tiny):
    first, again = (parts(tiny, seed=5, batch=6, title_batch=3)[2] for _ in range(2))
    again.windows(0)
    assert [row.tokens for row in first.windows(7)] == [row.tokens for row in again.windows(7)]
    assert [row.tokens for row in first.titles(7)] == [row.tokens for row in again.titles(7)]
    assert [row.tokens for row in first.windows(7)] != [row.tokens for row in first.windows(8)]


def test_titles_are_asked_for_by_the_items_codes(tiny):
    data, _, words = parts(tiny)
    for row in words.titles(0):
        question, answer = row.tokens[: -row.answer], row.tokens[-row.answer :]
        item = int(
            np.flatnonzero((tiny.item_tokens == [t for t in question if t >= tiny.text_size]).all(1))[0]
        )
        assert text_of(answer, tiny) == f" {data.catalogue.titles[item]}\n"
        assert text_of(question, tiny) == "Item:\nTitle:"


def test_the_text_loss_is_the_mean_cross_entropy_of_the_answers(tiny):
    """Against one unpacked row at a time through the whole model, and a softmax over the vocabulary written out."""
    _, _, words = parts(tiny, title_batch=4)
    rows, head = words.titles(2), tiny.inner.get_input_embeddings().weight
    losses = []
    for row in rows:
        hidden = tiny.hidden(tiny.pack([row.tokens]))
        for at in range(len(row.tokens) - row.answer, len(row.tokens)):
            logits = (hidden[at - 1] @ head.T).double()
            losses.append(float(logits.logsumexp(0) - logits[row.tokens[at]]))
    assert float(text_loss(tiny, head, rows)) == pytest.approx(np.mean(losses), rel=1e-5)
    assert len(losses) == sum(row.answer for row in rows)


def test_titles_teach_the_rows_of_the_codes():
    """A gradient reaches the input rows of exactly the codes that were asked about."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    rows = SidRows(SIZES, backbone.hidden_size)
    rows.start_from([None] * 3, norm=1.0, seed=3)
    model = SidModel(backbone, rows, Trie(unique_codes(N), SIZES))
    asked = model.item_tokens[4].tolist()
    answer = model.encode(" Film\n")
    text_loss(
        model, backbone.text_embeddings, [TextRow([*model.encode("Item:"), *asked, *answer], len(answer))]
    ).backward()
    moved = torch.nonzero(model.rows.input.grad.abs().sum(1))[:, 0] + model.text_size
    assert sorted(moved.tolist()) == sorted(asked)
    assert all(parameter.grad is None for parameter in model.inner.parameters())


def test_precision_counts_items_that_carry_the_words():
    phrases = Phrases(world())  # item i is a comedy, drama or horror film as i mod 3
    matches = [phrases.matching("comedy"), phrases.matching("drama")]
    lists = [np.array([0, 3, 1, 2]), np.array([1, 4, 7, 0])]
    assert mean_precision(lists, matches) == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert mean_precision([np.array([1, 2, 5]), lists[1]], matches) == pytest.approx((0 + 3 / 4) / 2)


def test_a_query_is_measured_against_the_same_request_without_it(tiny):
    data, builder, _ = parts(tiny)
    reading, phrases = Reading(tiny, builder), Phrases(data)
    requests = data.requests(data.events(TEST), False)
    found = query_precision(reading, phrases, requests, ["comedy", "drama", "horror"], k=4)
    assert found is not None
    assert found.chance == pytest.approx(1 / 3)
    by_hand = []
    for query, request in zip(["comedy", "drama", "horror"], requests[:3], strict=True):
        items = SidRecommender("", reading).recommend([replace(request, query=query)], 4)[0].items
        by_hand.append(np.mean([KINDS[item % 3].lower() == query for item in items]))
    assert found.with_query == pytest.approx(np.mean(by_hand))
    assert query_precision(reading, phrases, requests, []) is None


def test_queries_to_ask_are_parted_by_what_training_may_read():
    phrases = Phrases(world())
    sides = known_and_held_out(phrases, 50, seed=0)
    assert set(sides["seen"]) == {"comedy", "drama", "horror"}  # only they have ten items
    assert sides["held_out"] == []


def test_the_words_of_a_code_are_what_sets_its_items_apart():
    """Three items on a line; their mean is 2. Level 0 parts {1, 3} from {2}; level 1 gives item 3 a code alone."""
    items = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 6.0]])
    codes = np.array([[0, 1], [1, 1], [0, 0]])
    first, second = words_of_codes(items, codes, (2, 3))
    assert first.tolist() == [[0.0, 1.0], [0.0, -2.0]]  # (1 + 3) / 2 − 2 = 0; (0 + 6) / 2 − 2 = 1
    assert second.tolist() == [[1.0, 4.0], [-0.5, -2.0], [0.0, 0.0]]  # code 2 has no item


def test_rows_that_start_from_words_are_nearest_to_the_words_of_their_items():
    """Items of a code share a word: without any training, its embedding is nearer to that code's rows than to the others'."""
    words = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    codes = np.array([[item % 4] for item in range(40)])
    noise = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    rows = SidRows((4,), 64)
    rows.start_from(
        [None], 2.0, 0, words_of_codes(words[codes[:, 0]] + 0.5 * noise, codes, (4,)), output_norm=0.25
    )
    apart = words - words.mean(0)
    assert (apart @ rows.input.detach().T).argmax(1).tolist() == [0, 1, 2, 3]
    assert (apart @ rows.output.detach().T).argmax(1).tolist() == [0, 1, 2, 3]
    assert float(rows.input.detach().norm(dim=1).mean()) == pytest.approx(2.0)
    assert float(rows.output.detach().norm(dim=1).mean()) == pytest.approx(0.25)


@pytest.mark.parametrize(("setting", "from_words"), [("auto", True), ("words", True), ("codebook", False)])
def test_a_new_model_starts_from_the_words_of_its_items_under_an_adapter(setting, from_words):
    """Items of first code c have the word of kind c % 3 in their text: a row that knows it is nearer to that word's letters."""
    codes = unique_codes(N)
    texts = [KINDS[code % 3] * 3 for code in codes[:, 0]]
    config = AdaptConfig(backbone=BackboneConfig(name="tiny-random", device="cpu"), rows_from=setting)
    backbone = load_backbone(config.backbone)
    embedded = backbone.text_embeddings.detach()
    model = new_model(backbone, SemanticIdTable(codes, SIZES), [None] * 3, config, texts)
    means = torch.stack([embedded[list((KINDS[code % 3] * 3).encode())].mean(0) for code in range(SIZES[0])])
    apart = means - means[codes[:, 0]].mean(0)  # what sets an item apart from the catalogue
    cosines = nn.functional.cosine_similarity(model.rows.input.detach()[: SIZES[0]], apart)
    assert (float(cosines.min()) > 0.4) == from_words, cosines
    for level, size in enumerate(SIZES):
        rows = model.rows.output.detach()[model.rows.offsets[level] : model.rows.offsets[level] + size]
        assert float(rows.norm(dim=1).mean()) == pytest.approx(OUTPUT_NORM)
