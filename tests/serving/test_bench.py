"""The benchmark's own arithmetic, its files, and one whole case; `make test-slow` runs the quick suite."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from llm.decoding import scoring
from serving.bench import suite, world
from serving.bench.case import Result, in_turn, peak_memory, timed
from serving.cli import app

RESULT = Result(
    "a case", "a | peer", 2.5, (2.0, 3.0), 2.0, False, 1.0, 2.5, "s", 3, "FLOPs", {"kl": np.float32(0.5)}
)


def test_sides_run_in_turn_and_the_ratio_is_the_median_of_theirs_over_ours():
    order = []

    def side(name, pause):
        def call():
            order.append(name)
            time.sleep(pause)

        return call

    timing = in_turn(side("ours", 0.01), side("peer", 0.05), 3)
    assert order == ["ours", "peer"] * 4
    result = timed("x", "y", timing, 2.0, "sleep")
    ratios = sorted(b / a for a, b in zip(timing.ours, timing.peers, strict=True))
    assert result.ratio == ratios[1]
    assert result.spread == (ratios[0], ratios[2])
    assert result.met == (ratios[1] >= 2.0)
    assert timing.share[0] == pytest.approx(1 / ratios[1])


def test_a_case_is_met_on_the_side_that_its_target_names():
    def met(ratio, target, lower):
        return Result("", "", ratio, (0, 0), target, lower, 1, 1, "s", 1, "").met

    assert met(2.0, 2.0, False)
    assert not met(1.9, 2.0, False)
    assert met(1.0, 1.03, True)
    assert not met(1.04, 1.03, True)
    assert met(9.0, None, True)


def test_peak_memory_is_what_a_block_takes_at_once():
    with peak_memory() as peak:
        for _ in range(3):
            torch.ones(16 << 20).sum()  # 64 MiB each, one after the other
    if not peak:
        pytest.skip("no /proc here")
    assert 60 << 20 < peak[0] < 130 << 20


def test_files_hold_the_table_and_nothing_half_written(tmp_path):
    suite.write_json([RESULT], tmp_path / "bench.json", quick=True)
    read = json.loads((tmp_path / "bench.json").read_text())
    assert read["cases"][0] | {"spread": (2.0, 3.0)} == {
        "name": "a case", "peer": "a | peer", "ratio": 2.5, "spread": (2.0, 3.0), "target": 2.0,
        "lower_is_better": False, "ours": 1.0, "peers": 2.5, "unit": "s", "repeats": 3, "limit": "FLOPs",
        "notes": {"kl": 0.5}, "met": True,
    }  # fmt: skip
    assert read["quick"] is True
    assert read["machine"]["libraries"]["torch"] == torch.__version__
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    suite.write_markdown([RESULT], tmp_path / "bench.md")
    assert (
        "| a case | a \\| peer | 1 s | 2.5 s | 2.5 (2–3, 3 runs) | ≥ 2 met | FLOPs |"
        in (tmp_path / "bench.md").read_text()
    )


def test_the_table_fits_eighty_columns_and_leaves_nothing_out():
    out, long = (
        io.StringIO(),
        replace(RESULT, peer="what one would otherwise pick, " * 5, limit="memory, " * 20),
    )
    suite.print_results([RESULT, long], Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.split()[:2] == ["a", "case"] for line in lines) == 2  # a line a case
    words = " ".join(out.getvalue().split())
    assert "1 s 2.5 s 2.5 (2–3) ≥ 2 met" in words
    assert "a case: against a | peer, 3 runs; limited by FLOPs; kl 0.5" in words
    assert ("memory, " * 20).strip() in words


def test_an_unknown_case_and_a_file_that_cannot_be_written_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="no case 'speed'; expected some of draw, distinct"):
        list(suite.run_cases(["speed"], True))
    answer = CliRunner().invoke(app, ["bench", "--json", str(tmp_path / "no" / "x.json")])
    assert "there is no folder" in str(answer.exception)


def test_every_case_can_be_imported():
    from importlib import import_module

    for module, function in suite.CASES.values():
        assert callable(getattr(import_module(f"serving.bench.{module}"), function))


def test_the_peer_of_the_drawing_cases_is_the_same_model():
    """Two layers of SmolLM2: the peer's logits, cut to the codes of a level, are ours."""
    model = world.smollm2(n_items=300, layers=2)
    peer = world.causal_lm(model, layers=2)
    prompt = world.random_prompts(1, 9)[0]
    items = np.arange(0, 300, 37)
    ours = scoring.log_probs(model, [prompt] * len(items), items)[:, 0]
    allowed = world.allowed_tokens(world.dict_trie(model), len(prompt))
    for item, expected in zip(items, ours, strict=True):
        tokens, total = list(prompt), 0.0
        for token in model.item_tokens[item].tolist():
            legal = allowed(0, torch.tensor(tokens))
            logits = peer(torch.tensor([tokens])).logits[0, -1]
            total += float(logits[legal].log_softmax(0)[legal.index(token)])
            tokens.append(token)
        assert total == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_the_quick_suite(tmp_path):
    answer = CliRunner().invoke(app, ["bench", "--quick", "--json", str(tmp_path / "bench.json")])
    assert answer.exit_code == 0, answer.output
    cases = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert len(cases) >= 8
