"""Readers and heads by hand; parts of like lengths against the whole; what a session's nodes cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.backbone.conditions import NOTHING
from llm.backbone.heads import DepthHead, VectorReader
from llm.backbone.ragged import Layout, _runs
from llm.backbone.vocabulary import SidRows
from llm.decoding import draws
from llm.decoding.session import PromptSession
from semantic_ids.constraints import Constraints
from tests.support.models import tiny_model
from tests.support.requests import make_requests


def test_an_item_as_one_vector_is_the_sum_of_its_rows_and_its_projection():
    rows, codes = SidRows((3, 2), 5), np.array([[2, 0], [1, 1], [2, 1]])
    rows.input.data.normal_(generator=torch.Generator().manual_seed(0))
    vectors = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    reader = VectorReader(rows, codes, vectors)
    reader.start(norm=2.0, seed=0)
    read = reader(torch.tensor([2, 0, 2]))
    for at, item in enumerate((2, 0, 2)):
        by_hand = rows.input[codes[item, 0]] + rows.input[3 + codes[item, 1]]
        by_hand = by_hand + reader.projection.weight @ vectors[item]
        torch.testing.assert_close(read[at], by_hand)
    read.sum().backward()
    assert rows.input.grad[:, 0].tolist() == [0, 0, 3, 1, 2]  # how often each code was read
    assert not reader.vectors.requires_grad
    assert set(reader.state_dict()) == {"projection.weight"}
    assert (
        VectorReader(rows, codes)(torch.tensor([1])).tolist()[0] == (rows.input[1] + rows.input[4]).tolist()
    )


def test_projected_vectors_start_at_the_norm_that_is_asked_for():
    vectors = 7 * torch.randn(500, 20, generator=torch.Generator().manual_seed(1))
    reader = VectorReader(SidRows((500,), 64), np.arange(500)[:, None], vectors)
    reader.start(norm=3.0, seed=0)
    assert reader.projection(vectors).norm(dim=1).mean().item() == pytest.approx(3.0, rel=0.1)


def test_a_fresh_head_writes_the_first_code_as_the_backbone_does_and_hears_the_first_code_in_the_second():
    rows = SidRows((4, 3), 6)
    rows.start_from([None] * 2, norm=1.0, seed=0)
    head = DepthHead(rows, width=8, layers=1)
    head.start(seed=0)
    states = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(2))
    codes = torch.tensor([[0], [1], [2], [3]])
    torch.testing.assert_close(head.logits(0, states, codes, codes[:, 0]), rows.logits(states[:, 0], 0))
    same = states[:1].expand(4, -1, -1)
    second = head.logits(1, same, codes, codes[:, 0])
    normed = states[0, 0] / states[0, 0].square().mean().add(1e-6).sqrt()
    torch.testing.assert_close(second[2], rows.logits((normed + head.codes[2])[None], 1)[0])
    assert (second - second[0]).abs().amax(1)[1:].min() > 1e-3
    head.logits(1, states, codes, codes[:, 0]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_in_parts_of_like_lengths_are_the_rows_as_one_forward_and_backward(mixed):
    lengths = [1, 1, 2, 3, 3, 4, 7, 7, 8, 19]
    runs = _runs(np.array(lengths))
    lengths = lengths[::-2] + lengths[::2] if mixed else lengths
    assert [first for first, _ in runs[1:]] == [end for _, end in runs[:-1]]
    assert (runs[0][0], runs[-1][1]) == (0, len(lengths))
    assert len(runs) > 2
    model = tiny_model("vector, depth")
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 250, length).tolist() for length in lengths]
    made = []
    for alike in (False, True):
        packed = model.pack(sequences, alike)
        assert bool(packed.layout.parts) == alike
        embedded = model.embed(packed, None).requires_grad_()
        out = model._forward(embedded, packed.layout.place, None, NOTHING, packed.layout)
        out.square().sum().backward()
        made.append((out.detach(), embedded.grad))
    torch.testing.assert_close(made[0][0], made[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made[0][1], made[1][1], atol=1e-3, rtol=1e-4)
    assert Layout([3, 1], torch.device("cpu")).parts == []


def test_nodes_of_a_depth_head_take_no_columns_and_read_nothing(monkeypatch):
    model = tiny_model("vector, depth")
    requests = make_requests(5)
    prompts = [[256, 65 + row] for row in range(5)]
    monkeypatch.setattr(model, "node_hidden", None)
    session = PromptSession(model, prompts, NOTHING, Constraints(model.trie, [[]] * 5))
    held = [x.nbytes for pair in session.memory._layers.values() for x in pair]
    for seed in range(3):
        draws.draw(session, requests, 40, seed)
        draws.distinct(session, requests, 20, seed)
    assert session.memory.used == session.width == 2
    assert [x.nbytes for pair in session.memory._layers.values() for x in pair] == held
    assert model.footprint.of(50, 300, 3) < tiny_model().footprint.of(50, 300, 3) / 2
