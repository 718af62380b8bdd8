"""Rows of the stage `align`: defaults, and what is refused."""

from __future__ import annotations

import pytest

from llm.align.config import AlignConfig
from tests.support.alignment import E2P

# -- configuration ------------------------------------------------------------------------------------------------


def test_the_default_rows_and_a_round_trip():
    config = AlignConfig()
    assert [row.key for row in config.rows] == [
        "static_prefix_lm", "static_prefix_kto", "e2p_lm", "e2p_engagement", "e2p_kto",
    ]  # fmt: skip
    assert [row.name for row in config.rows] == [
        "Static Prefix (LM)", "Static Prefix (KTO)", "E2P (LM)", "E2P (KTO eq. 5)", "E2P (KTO)",
    ]  # fmt: skip
    assert AlignConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.lm_row(config.rows[4]) == config.rows[2]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [{"method": "e2p", "objective": "kto"}],
            "reads the lm snapshot of its method, which no row before it",
        ),
        ([{"method": E2P}, {"method": "e2p", "objective": "kto"}], "which no row before it trains"),
        (
            [{"method": "e2p", "objective": "kto", "start": "fresh", "reference": "lm_snapshot"}],
            "reads the lm snapshot",
        ),
        ([{"method": "e2p"}, {"method": "e2p"}], "two rows have the key 'e2p_lm'"),
        ([{"method": "oppu_lora"}], "no personalizer that one gradient trains"),
        ([{"method": "rag"}], "no personalizer that one gradient trains"),
        ([{"method": "e2pp"}], "there is no method 'e2pp'"),
        ([{"method": "e2p", "objective": "dpo"}], "dpo"),
        ([], "at least 1"),
    ],
)
def test_nonsense_is_refused_with_the_reason(rows, reason):
    with pytest.raises(ValueError, match=reason):
        AlignConfig.model_validate({"rows": rows})


def test_a_fresh_start_needs_no_snapshot_and_weights_come_in_pairs():
    AlignConfig.model_validate({"rows": [{"method": "e2p", "objective": "kto", "start": "fresh"}]})
    with pytest.raises(ValueError, match="both desirable_weight and undesirable_weight"):
        AlignConfig(desirable_weight=2.0)
    with pytest.raises(ValueError, match="it has static_prefix_lm, static_prefix_kto, e2p_lm"):
        AlignConfig().row("e2p_dpo")
