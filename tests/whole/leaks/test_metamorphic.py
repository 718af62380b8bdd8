"""Whole runs over worlds that differ in what must not matter learn the same to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.embeddings.user_vectors import BroughtVectors
from recsys.recommender import Request
from tests.support.leaks.looks import LOOKS, answers, baselines, differences, leaks, learned, window_heads
from tests.support.leaks.mutant import OTHERS
from tests.support.leaks.runs import STAGES
from tests.support.leaks.worlds import CHANGES, TEST_CHANGES, world

pytestmark = pytest.mark.whole_run


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_a_change(change):
    """Else the relations below would compare a world with itself."""
    honest, changed = world(), CHANGES[change](world())
    assert len(changed.events) < len(honest.events) or (changed.events["item"] != honest.events["item"]).any()


@pytest.mark.parametrize("look", ["learned", "baselines", "earlier events", "chosen"])
@pytest.mark.parametrize("change", TEST_CHANGES)
def test_the_test_events_change_nothing_before_evaluate(runs, change, look):
    ours, theirs = (LOOKS[look](*side) for side in runs.sides(change))
    assert leaks(change, ours, theirs) == []
    assert len(ours) >= (200 if look == "learned" else 1)


def test_every_stage_is_compared(runs):
    found = learned(runs.sides("other test targets")[0][1])
    assert {name.split("/")[0] for name in found} == set(STAGES)
    for artifact in ("e2p-0", "tap_per-0", "p2p-0", "no_context_continued-0/sid_rows"):
        assert f"personalize/{artifact}.safetensors" in found


@pytest.mark.parametrize("change", ["other test targets", "shuffled test events"])
def test_what_a_user_is_answered_does_not_depend_on_what_they_then_did(runs, change):
    ours, theirs = (answers(*side) for side in runs.sides(change))
    assert differences(ours, theirs) == []
    assert not any(str(value).startswith("refused") for value in ours.values())


@pytest.mark.parametrize("change", ["other validation targets", "other Stage 2 targets"])
def test_other_targets_change_only_what_learns_or_chooses_by_them(runs, change):
    """Validation has one rate, one half-life, one temperature and one state to choose from, and is asked at the end."""
    ours, theirs = runs.sides(change)
    assert leaks(change, learned(ours[1]), learned(theirs[1])) == []
    assert leaks(change, baselines(*ours), baselines(*theirs)) == []
    found = differences(learned(ours[1]), learned(theirs[1]))
    expected = {
        "other validation targets": ["combine/combine.json:products.e2p-0.values"],
        "other Stage 2 targets": [
            "embed/retrieval.safetensors",
            "embed/sasrec_retrieval.safetensors",
            "personalize/e2p-0.safetensors",
            "personalize/tap_per-0.safetensors",
        ],
    }[change]
    assert set(expected) <= set(found)  # the change reaches what may learn of it


def test_events_of_held_out_users_change_nothing(runs):
    ours, theirs = runs.held_out()
    assert leaks(OTHERS, learned(ours[1]), learned(theirs[1])) == []
    assert differences(baselines(*ours), baselines(*theirs)) == []


def test_a_windows_context_does_not_depend_on_its_targets(runs):
    side = runs.sides("other test targets")[0]
    ours = window_heads(*side, changed=False)
    assert differences(ours, window_heads(*side, changed=True)) == []
    assert len({tuple(tokens) for tokens in ours["profile"]}) > 20
    assert len({tuple(tokens) for tokens in ours["records"]}) > 20


def test_brought_vectors_of_the_moment_and_later_change_nothing():
    moments = np.array([10, 20, 30, 10, 20, 30])
    users, values = np.repeat([0, 1], 3), np.arange(12.0).reshape(6, 2)
    asked = [Request(f"r{user}", user, 20) for user in (0, 1)]

    def vectors(values: np.ndarray) -> np.ndarray:
        return BroughtVectors(users, moments, values, "brought").vectors(asked)[0]

    later = np.where((moments >= 20)[:, None], -values, values)
    assert (vectors(values) == vectors(later)).all()
    assert (vectors(values) != vectors(-values)).any()
