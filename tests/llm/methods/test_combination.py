"""Combinations of methods side by side, the strength knob, and the methods that the manual tells of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.backbone.conditions import Condition, LowRank
from llm.decoding.scoring import log_probs_of
from llm.methods.catalogue import CATALOGUE
from llm.methods.combination import Combination
from llm.prompts.reading import OfAnother, Personalizer, Reading
from tests.support.paths import ROOT
from tests.support.prompts import builder
from tests.support.requests import make_requests


def test_the_table_of_methods_tells_of_every_method():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for key in CATALOGUE:
        assert f"| `{key}` |" in page, f"the table of docs/methods.md lacks {key}"


class _Constant(Personalizer):
    def __init__(self, value: float, tokens: int, known: bool, layer: str | None = None):
        super().__init__()
        self.value, self.soft_tokens, self.knows, self.layer = value, tokens, known, layer

    def condition(self, requests):
        prefix = torch.full((len(requests), self.soft_tokens, 64), self.value + self.step)
        updates = {self.layer: (LowRank(torch.ones(2, 64), torch.ones(64, 2)),)} if self.layer else {}
        return Condition(prefix, np.full(len(requests), self.knows), updates)


def test_a_combination_is_its_parts_side_by_side():
    layer = "layers.0.self_attn.q_proj"
    both = Combination([_Constant(1, 1, True), _Constant(2, 3, True, layer)])
    both.step = 4
    condition = both.condition(make_requests(2))
    assert condition.prefix[1, :, 0].tolist() == [5, 6, 6, 6]
    assert condition.soft_tokens(2).tolist() == [4, 4]
    assert list(condition.updates) == [layer]
    cold = Combination([_Constant(1, 1, False), _Constant(2, 3, True)]).condition(make_requests(2))
    assert cold.soft_tokens(2).tolist() == [0, 0]


def test_strength_scales_soft_tokens_and_updates_and_is_silent_at_zero(tiny):
    prompts = builder(recent_items=2)
    prompts.item_tokens = tiny.item_tokens
    requests, items = make_requests(5), np.array([1, 2, 3, 4, 5])
    items = np.array([next(i for i in range(30) if i not in request.exclude) for request in requests])
    personalizer = _Constant(0.3, 2, True, "layers.0.self_attn.q_proj")

    def at(strength: float | None):
        chosen = None if strength is None else personalizer
        return log_probs_of(Reading(tiny, prompts, chosen, None, strength or 0.0), requests, items)[:, 0]

    np.testing.assert_array_equal(at(0.0), at(None))
    assert np.abs(at(1.0) - at(None)).max() > 1e-3
    half = personalizer.condition(requests).scaled(0.5)
    assert half.prefix[0, 0, 0] == pytest.approx(0.15)
    (update,) = half.updates["layers.0.self_attn.q_proj"]
    assert update.b[0, 0] == 0.5
    assert update.a[0, 0] == 1


def test_of_another_borrows_the_condition_of_its_partner():
    class _User(Personalizer):
        soft_tokens = 1

        def condition(self, requests):
            return Condition(torch.tensor([[[float(request.user)]] for request in requests]))

    requests = make_requests(3)
    other = OfAnother(_User(), requests, np.array([2, 0, 1]))
    assert other.condition(requests).prefix[:, 0, 0].tolist() == [2, 0, 1]
    assert other.condition(requests[1:]).prefix[:, 0, 0].tolist() == [0, 1]
