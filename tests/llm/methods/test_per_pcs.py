"""PER-PCS: who shares, gates by hand, pieces together, and what its configuration refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.backbone.ragged import Layout
from llm.methods.per_user.adapters import UserTable, write_rows
from llm.methods.per_user.per_pcs import PerPcsConfig
from llm.methods.per_user.pieces import (
    PIECES,
    WEIGHTS,
    Gated,
    choose_sharers,
    put_together,
)
from llm.methods.personalize import PersonalizeConfig

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_most_active_or_the_most_central_of_each_cluster_shares():
    vectors = np.array([[0.0, 0], [0.2, 0], [0.1, 0], [9.0, 9], [9.2, 9], [9.1, 9], [9.1, 9.0]])
    activity = np.array([3, 8, 8, 1, 2, 1, 1])
    assert choose_sharers(vectors, activity, 2, "most_active", seed=0).tolist() == [1, 4]
    assert choose_sharers(vectors, activity, 2, "nearest", seed=0).tolist() == [2, 5]
    with pytest.raises(ValueError, match=r"per_pcs\.sharers is 8, and 7 users"):
        choose_sharers(vectors, activity, 8, "nearest", seed=0)


def test_a_gate_by_hand():
    """x = (1, 2), A = (3, 1), B = (1, −1)ᵀ, g = (ln 3, 0): σ(g·x) = 3/4, and B A x = (5, −5)."""
    update = Gated(
        torch.tensor([[[3.0, 1]]]), torch.tensor([[[1.0], [-1]]]), torch.tensor([[np.log(3), 0.0]]).float()
    )
    x, y = torch.tensor([[1.0, 2]]), torch.tensor([[10.0, 10]])
    out = update.apply(x, y, Layout([1], CPU))
    torch.testing.assert_close(out, torch.tensor([[13.75, 6.25]]))
    two = Gated(*(torch.cat([t, t * 0]) for t in (update.a, update.b, update.gate)))
    rows = two.rows(torch.tensor([1, 0])).apply(x.repeat(2, 1), y.repeat(2, 1), Layout([1, 1], CPU))
    torch.testing.assert_close(rows, torch.tensor([[10.0, 10], [13.75, 6.25]]))
    torch.testing.assert_close(update.scaled(2.0).apply(x, y, Layout([1], CPU)) - y, 2 * (out - y))


def test_pieces_together_are_the_weighted_sum_of_their_products():
    a, b = random(4, 2, 5), random(4, 3, 2, seed=1)
    pieces, weights = torch.tensor([[3, 0, 3], [1, 2, 0]]), torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    update = put_together(a, b, pieces, weights)
    for user in range(2):
        wanted = sum(w * b[i] @ a[i] for i, w in zip(pieces[user], weights[user], strict=True))
        torch.testing.assert_close(update.b[user] @ update.a[user], wanted)


def test_rows_are_written_to_the_same_bytes_every_time(tmp_path):
    rows = {PIECES: torch.arange(6).view(2, 3), WEIGHTS: random(2, 3)}
    written = []
    for turn in range(8):
        write_rows(tmp_path / str(turn), np.array([1, 4]), rows)
        written.append((tmp_path / str(turn)).read_bytes())
    assert len(set(written)) == 1
    table = UserTable.open([tmp_path / "0"])
    assert torch.equal(table.take(np.array([4, 1]), PIECES)[0], rows[PIECES].flip(0))
    assert torch.equal(table.take(np.array([4, 1]), WEIGHTS)[0], rows[WEIGHTS].flip(0))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sharers": 2, "k": 3}, "only 2 sharers have pieces"),
        ({"modules": []}, "modules"),
        ({"base": "mt_lora"}, "does not list before it"),
    ],
)
def test_nonsense_is_refused_with_the_reason(settings, reason):
    with pytest.raises(ValueError, match=reason):
        PersonalizeConfig(methods=[{"key": "per_pcs"} | settings])


def test_a_resolved_configuration_can_be_read_again():
    config = PersonalizeConfig(methods=["per_pcs", "oppu_lora", "oppu_ia3", "oppu_prompt", "oppu_lora_pag"])
    assert PersonalizeConfig.model_validate(config.model_dump(mode="json")) == config
    assert isinstance(config.methods[0], PerPcsConfig)
