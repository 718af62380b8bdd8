"""What methods cost, counted by hand from shapes; and the papers' claims about storage."""

from __future__ import annotations

import json

import pytest

from evaluation.report import cost_plots
from serving.report.costs import at_papers_size, cost_pictures
from serving.stages.costs import LENGTHS


@pytest.fixture(scope="module")
def costs(small_run):
    _, run = small_run
    return json.loads(run.artifact("evaluate", "costs.json").read_text())


def test_numbers_stored_are_those_of_the_shapes(costs):
    """The tiny model: h = 64, keys and values 32 wide, two layers, an MLP of 128; vectors of 16, a bottleneck of 8."""
    h, kv, inner, layers = 64, 32, 128, 2
    stored = {
        name: (row["per_user_parameters"], row["shared_parameters"]) for name, row in costs["rows"].items()
    }
    assert stored["No Context"] == stored["RAG, k = 2"] == (0, 0)
    e2p = 16 * 8 + 2 * 8 + 8 * h + h
    assert stored["E2P"] == (0, e2p)
    assert stored["Static Prefix"] == (0, e2p + 16)
    assert stored["OPPU, LoRA"] == (2 * layers * ((h + h) + (h + kv)), 0)
    assert stored["OPPU, prompt tuning"] == (2 * h, 0)
    bridge = 4 * layers * (2 * (h + h) + 2 * (h + kv))
    assert stored["Bridge only"] == (0, bridge)
    p_q = (4 * h * 8 + 8) + (8 + 1) + (h * 8 + 8) + (8 * 2 * h + 2 * h) + 2
    assert stored["TAP-PER"] == (2 * h, p_q + bridge)
    assert stored["TAP-PER, P_q only"] == (0, p_q + bridge)
    assert stored["E2P + P_q"] == (0, p_q + e2p)
    mt_lora = 8 * layers * ((h + h) + (h + kv))
    assert stored["MT-LoRA"] == (0, mt_lora)
    assert stored["OPPU, IA3"] == (layers * (kv + kv + inner), mt_lora)  # the small run's lies on MT-LoRA


def test_every_row_was_timed(costs, small_run):
    config, _ = small_run
    for method in config.personalize.methods:
        row = costs["rows"][method.name]
        assert row["latency_ratio"] > 0
        assert row["seconds_to_admit"] > 0
        assert len(costs["admission"]["seconds"][method.name]) == len(LENGTHS)


def test_they_reach_the_results_and_the_report(small_run):
    _, run = small_run
    rows = {row["name"]: row for row in json.loads((run.path / "results.json").read_text())["rows"]}
    assert rows["TAP-PER"]["per_user_parameters"] == 128
    assert rows["No Context"]["latency_ratio"] == 1.0
    assert "What is stored" in (run.path / "report.html").read_text()


def test_tap_per_stores_less_than_oppus_lora_by_the_papers_factor():
    """“130 × fewer per-user parameters than OPPU” at rank 8 on q, k, v, o and L = 8, on Llama-3.1-8B."""
    sizes = at_papers_size()
    oppu, tap_per = sizes["OPPU, LoRA on q, k, v, o"][0], sizes["TAP-PER"][0]
    assert (oppu, tap_per) == (6_815_744, 32_768)
    assert oppu / tap_per == 208


def test_pictures_are_drawn_of_what_there_is(costs):
    for _, _, picture in cost_pictures(costs):
        assert picture is not None
        assert picture.startswith(b"\x89PNG")
    assert cost_plots.storage({"empty": {}}) is None
    assert cost_plots.admission([], {}) is None
