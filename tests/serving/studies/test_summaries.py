"""Summaries are written from what may be known, and a killed call goes on."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, TEST
from serving.studies import summaries
from serving.studies.summaries import known_titles, summarize


def test_a_summary_is_told_of_nothing_that_any_instance_asks_for(small_run):
    _, run = small_run
    data = Dataset.load(run)
    told = known_titles(data, 1000)
    for user, user_id in enumerate(data.user_ids):
        mine = data.items[data.users == user], data.roles[data.users == user]
        assert told[user_id][1] == data.times[(data.users == user) & (data.roles == FIT)].max() + 1
        assert told[user_id][0].split("; ")[::-1] == [
            data.catalogue.titles[item] for item in mine[0][mine[1] == FIT]
        ]


def test_a_held_out_person_is_described_by_what_precedes_their_test(small_run):
    _, run = small_run
    data = Dataset.load(run)
    data.roles = np.where((data.users == 3) & (data.roles != TEST), 4, data.roles).astype(np.int8)
    mine = data.users == 3
    before = data.items[mine][: int(np.flatnonzero(data.roles[mine] == TEST)[0])]
    assert known_titles(data, 2)[data.user_ids[3]][0] == "; ".join(
        data.catalogue.titles[i] for i in before[::-1][:2]
    )


def test_a_killed_call_goes_on_where_it_was(small_run, tmp_path, monkeypatch):
    _, run = small_run
    out, calls = tmp_path / "s.parquet", []

    def write(model, titles, longest):
        calls.append(len(titles))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [f"likes {text[:7]}" for text in titles]

    monkeypatch.setattr(summaries, "write", write)
    monkeypatch.setattr(summaries, "load_text_model", lambda config: object())
    with pytest.raises(KeyboardInterrupt):
        summarize(run.path, out, "smollm2", 3, 8)
    assert not out.exists()
    summarize(run.path, out, "smollm2", 3, 8)
    assert sum(calls) - 8 == 40  # users; the killed batch was asked twice
    assert len(pq.read_table(out)) == 40
    with pytest.raises(ValueError, match="no folder"):
        summarize(run.path, tmp_path / "no" / "s.parquet", "smollm2", 3, 8)


def test_the_model_writes_one_line(tmp_path):
    from llm.backbone.load import BackboneConfig
    from llm.text_tasks.model import load_text_model

    model = load_text_model(BackboneConfig(name="tiny-random", device="cpu"))
    (text,) = summaries.write(model, ["Heat; Fargo"], 5)
    assert "\n" not in text
