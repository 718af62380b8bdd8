"""Methods as configuration: names, settings, what is refused and why; combinations; the strength knob."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llm.backbone.conditions import Condition, LowRank
from llm.methods.catalogue import CATALOGUE
from llm.methods.combination import Combination
from llm.prompts.reading import OfAnother, Personalizer, Reading
from serving.config.run import load_config
from tests.conftest import make_requests


def chosen(text: str):
    return load_config(None, [f"personalize.methods={text}"]).personalize.methods


def test_all_is_the_catalogue_and_survives_being_written_out():
    config = load_config(None, ["personalize.methods=all"])
    assert [method.key for method in config.personalize.methods] == list(CATALOGUE)
    assert load_config(None, base=config.model_dump(mode="json")) == config


def test_all_can_be_listed_with_settings_of_ones_own():
    methods = chosen("[all, {key: e2p, bottleneck: 9}, {method: tap_per, length: 2, name: Short}]")
    assert [method.key for method in methods] == [*CATALOGUE, "short"]
    assert next(method for method in methods if method.key == "e2p").bottleneck == 9


def test_a_name_can_be_changed_in_some_settings_and_keeps_the_rest():
    (method,) = chosen("[{key: tap_per_p_q, length: 2}]")
    assert (method.name, method.length, method.user_state) == ("TAP-PER, P_q only", 2, False)
    (own,) = chosen("[{method: tap_per, bridge: false, name: 'TAP-PER, no bridge'}]")
    assert (own.key, own.bridge, own.user_state) == ("tap_per_no_bridge", False, True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[e2pp]", "there is no method 'e2pp'; there are"),
        ("[e2p, e2p]", "two methods have the key 'e2p'"),
        ("[{method: tap_per, records: false, user_state: false, bridge: false}]", "is No Context"),
        ("[{method: tap_per, records: false, prefilter: 5}]", "which records: false leaves out"),
        ("[{method: combination, name: x, parts: [e2p, e2p]}]", "e2p is there twice"),
        ("[{method: combination, name: x, parts: [e2p, static_prefix]}]", "a control is about nobody"),
        ("[{method: combination, name: x, parts: [e2p, rag]}]", "prompts are set on the combination"),
        ("[{method: combination, name: x, parts: [e2p, no_context_continued]}]", "want frozen"),
        ("[{method: combination, name: x, parts: [mt_lora, tap_per]}]", "keep one of them"),
        ("[{method: combination, name: x, parts: [e2p, {key: e2p_prompt}]}]", "has a prompt of its own"),
        ("[{method: rag, k: 0}]", "greater than or equal to 1"),
        ("[{method: e2p, bottlneck: 3}]", "bottlneck"),
    ],
)
def test_nonsense_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        chosen(text)


def test_the_table_of_methods_tells_of_every_method():
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
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
    from llm.decoding.scoring import log_probs_of
    from tests.test_prompts import builder

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
