"""One PEFT per user: its table's rows, and what its configuration refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from llm.methods.per_user.adapters import ROWS, UserTable, write_rows
from llm.methods.personalize import PersonalizeConfig


def test_a_table_reads_rows_of_its_users_from_all_parts_and_says_whose_they_are(tmp_path):
    first, second = torch.arange(6.0).view(2, 3), 10 + torch.arange(3.0).view(1, 3)
    write_rows(tmp_path / "a", np.array([2, 7]), {ROWS: first})
    write_rows(tmp_path / "b", np.array([4]), {ROWS: second})
    table = UserTable.open([tmp_path / "a", tmp_path / "b"])
    rows, known = table.take(np.array([7, -1, 4, 2, 9, 7]), blank=1.0)
    assert known.tolist() == [True, False, True, True, False, True]
    blank = torch.ones(3)
    torch.testing.assert_close(rows, torch.stack([first[1], blank, second[0], first[0], blank, first[1]]))
    with safe_open(tmp_path / "a", "pt") as file:
        assert json.loads(file.metadata()["user_rows"]) == [ROWS]
        assert "users" in file.keys()  # noqa: SIM118 (not a dict)
    nobody, known = UserTable([(np.zeros(0, np.int64), {ROWS: first[:0]})]).take(np.array([3]))
    assert not known.any()
    assert nobody.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kind": "ia3", "rank": 4}, "oppu.rank belongs to kind lora, and kind is ia3"),
        ({"kind": "lora", "length": 4}, "oppu.length belongs to kind prompt, and kind is lora"),
        ({"kind": "prompt", "modules": ["q_proj"]}, "oppu.modules belongs to kind lora or ia3"),
        ({"modules": []}, "nothing would be trained"),
        ({"epochs": [0]}, "1 or more"),
        ({"learning_rates": []}, "rates above 0"),
        ({"base": "mt_lora"}, "does not list before it"),
    ],
)
def test_nonsense_is_refused_with_the_reason(settings, reason):
    with pytest.raises(ValueError, match=reason):
        PersonalizeConfig(methods=[{"key": "oppu_lora"} | settings, "mt_lora"])
