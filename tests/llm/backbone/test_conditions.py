"""Updates of linear layers: shared and per request, on every road through the model, and none that stays behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.backbone.conditions import Condition, Gain, LowRank
from llm.backbone.ragged import Layout

KINDS = ("q_proj", "v_proj", "up_proj", "down_proj")


LENGTHS = [3, 7, 1]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def shared(model, kinds=KINDS, rank: int = 2) -> dict:
    return {
        name: (LowRank(numbers(rank, n_in, seed=at) * n_in**-0.5, numbers(n_out, rank, seed=at + 50)),)
        for at, (name, (n_in, n_out)) in enumerate(model.updates.layers(kinds).items())
    }


def per_row(model, rows: int, kinds=KINDS, rank: int = 2) -> dict:
    return {
        name: (LowRank(numbers(rows, rank, n_in, seed=at) * n_in**-0.5, numbers(rows, n_out, rank, seed=at)),)
        for at, (name, (n_in, n_out)) in enumerate(model.updates.layers(kinds).items())
    }


def packed(model, lengths=LENGTHS):
    generator = np.random.default_rng(3)
    return model.pack([generator.integers(0, 250, n).tolist() for n in lengths])


def test_low_rank_by_hand():
    """Two rows of two tokens and one: y + B A x with each row's own A and B."""
    layout = Layout([2, 1], torch.device("cpu"))
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    y = torch.tensor([[10.0], [20.0], [30.0]])
    update = LowRank(torch.tensor([[[1.0, 2.0]], [[0.0, 1.0]]]), torch.tensor([[[3.0]], [[-1.0]]]))
    assert update.apply(x, y, layout).tolist() == [[13.0], [32.0], [29.0]]
    assert update.rows(torch.tensor([1])).apply(x[2:], y[2:], Layout([1], torch.device("cpu"))).tolist() == [
        [29.0]
    ]
    assert update.scaled(0.5).apply(x, y, layout).tolist() == [[11.5], [26.0], [29.5]]
    gain = Gain(torch.tensor([[2.0], [0.5]]))
    assert gain.apply(x, y, layout).tolist() == [[20.0], [40.0], [15.0]]
    assert gain.scaled(0.5).apply(x, y, layout).tolist() == [[15.0], [30.0], [22.5]]
    assert gain.scaled(0.0).apply(x, y, layout).tolist() == y.tolist()


def test_a_shared_update_is_that_of_equal_rows(tiny):
    updates = shared(tiny)
    rows = {
        name: tuple(LowRank(one.a.expand(3, -1, -1), one.b.expand(3, -1, -1)) for one in some)
        for name, some in updates.items()
    }
    tokens = packed(tiny)
    one, other = tiny.hidden(tokens, Condition(updates=updates)), tiny.hidden(tokens, Condition(updates=rows))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert (one - tiny.hidden(tokens)).abs().max() > 0.1


def test_some_rows_of_a_condition_are_those_rows(tiny):
    prefix = numbers(3, 2, tiny.hidden_size)
    known = np.array([True, False, True])
    gains = {"layers.0.mlp.up_proj": (Gain(1 + 0.1 * numbers(3, 128)),)}
    whole = Condition(prefix, known, per_row(tiny, 3, ("q_proj",)) | gains | shared(tiny, ("v_proj",)))
    some = whole.rows(np.array([2, 0]))
    assert torch.equal(some.prefix, prefix[[2, 0]])
    assert some.known.tolist() == [True, True]
    assert whole.soft_tokens(3).tolist() == [2, 0, 2]
    bare, bare_some = Condition(updates=whole.updates), Condition(updates=some.updates)
    states = tiny.hidden(packed(tiny), bare).split(LENGTHS)
    sequences = packed(tiny).tokens.split(LENGTHS)
    swapped = tiny.pack([sequences[2].tolist(), sequences[0].tolist()])
    torch.testing.assert_close(
        tiny.hidden(swapped, bare_some), torch.cat([states[2], states[0]]), rtol=1e-4, atol=1e-5
    )


def test_conditions_side_by_side():
    a, b = numbers(2, 1, 4), numbers(2, 3, 4)
    first, second, third = (LowRank(numbers(1, 4, seed=n), numbers(5, 1, seed=n)) for n in range(3))
    one = Condition(a, np.array([True, False]), {"x": (first,), "y": (second,)})
    two = Condition(b, np.array([True, True]), {"y": (third,)})
    both = one.beside(two)
    assert torch.equal(both.prefix, torch.cat([a, b], 1))
    assert both.known.tolist() == [True, False]
    assert both.updates == {"x": (first,), "y": (second, third)}
    assert Condition().beside(one).prefix is not None
    layout = Layout([2, 1], torch.device("cpu"))
    x, y = numbers(3, 4), numbers(3, 5)
    added = y
    for update in both.updates["y"]:
        added = update.apply(x, added, layout)
    expected = y + x @ second.a.T @ second.b.T + x @ third.a.T @ third.b.T
    torch.testing.assert_close(added, expected)


def test_strength():
    prefix = numbers(2, 1, 4)
    update = LowRank(numbers(1, 4), numbers(5, 1))
    condition = Condition(prefix, None, {"x": (update,)})
    assert condition.scaled(1.0) is condition
    half = condition.scaled(0.5)
    assert torch.equal(half.prefix, prefix / 2)
    assert torch.equal(half.updates["x"][0].b, update.b / 2)
    assert torch.equal(half.updates["x"][0].a, update.a)
    nothing = condition.scaled(0.0)
    assert nothing.prefix is None
    assert not nothing.updates["x"][0].b.any()


def test_no_update_is_left_behind(tiny):
    tokens = packed(tiny)
    plain = tiny.hidden(tokens)
    condition = Condition(updates=shared(tiny))
    updated = tiny.hidden(tokens, condition)
    assert torch.equal(tiny.hidden(tokens), plain)
    wrong = Condition(updates={"layers.1.self_attn.q_proj": (LowRank(numbers(2, 7), numbers(64, 2)),)})
    with pytest.raises(RuntimeError):
        tiny.hidden(tokens, wrong)
    assert torch.equal(tiny.hidden(tokens), plain)
    assert torch.equal(tiny.hidden(tokens, condition), updated)
    with pytest.raises(RuntimeError):  # not even for the layers before the one that failed
        tiny.hidden(tokens, Condition(updates=shared(tiny) | wrong.updates))
    assert torch.equal(tiny.hidden(tokens), plain)


@pytest.mark.parametrize("kinds", [KINDS, ("up_proj",), ("down_proj",)])
def test_the_last_mlp_of_wanted_tokens_alone_is_updated_as_that_of_all(tiny, kinds):
    """Per-row updates there must find their rows though only some tokens of each are left; one row has none."""
    tokens = packed(tiny)
    condition = Condition(updates=per_row(tiny, 3, kinds))
    every = tiny.hidden(tokens, condition)
    for wanted in ([2, 8, 9, 10], [0, 1, 2, 10], [9], list(range(11))):
        there = torch.tensor(wanted)
        some = tiny.hidden(tokens, condition, there)
        torch.testing.assert_close(some, every[there], rtol=1e-4, atol=1e-5)
    assert (every - tiny.hidden(tokens)).abs().max() > 0.1


def test_the_names_of_layers(tiny):
    assert tiny.updates.layers(("v_proj",)) == {
        "layers.0.self_attn.v_proj": (64, 32),
        "layers.1.self_attn.v_proj": (64, 32),
    }
    with pytest.raises(ValueError, match="no linear layer called w_proj"):
        tiny.updates.layers(("q_proj", "w_proj"))
