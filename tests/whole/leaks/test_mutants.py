"""Each planted leak is seen by the relation that it breaks, and that relation sees nothing without it."""

from __future__ import annotations

from functools import cache

import pytest

from recsys.run import Run
from serving.pipeline import run_stage
from tests.support.leaks.looks import LOOKS, Learned, leaks, window_heads
from tests.support.leaks.mutant import OTHERS, WINDOW, Mutant
from tests.support.leaks.mutants import MUTANTS
from tests.support.leaks.runs import run_again

pytestmark = pytest.mark.whole_run


def test_mutants_are_many_and_have_names_of_their_own():
    assert len(MUTANTS) >= 40
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_leak_is_seen(mutant, runs, tmp_path):
    assert leaks(mutant.change, *_honest(mutant.change, mutant.looks, runs)) == []
    with pytest.MonkeyPatch.context() as planted:
        mutant.plant(planted)
        found = leaks(mutant.change, *_planted(mutant, runs, tmp_path))
    assert any(name.startswith(mutant.seen) for name in found), found


@cache
def _honest(change: str, looks: str, runs) -> tuple[Learned, Learned]:
    """What a relation compares of the shared runs: the same for every mutant, so it is looked at once."""
    if change == WINDOW:
        return _windows(runs)
    ours, theirs = (LOOKS[looks](*side) for side in _sides(change, runs))
    return ours, theirs


def _windows(runs) -> tuple[Learned, Learned]:
    side = runs.sides("other test targets")[0]
    return window_heads(*side, changed=False), window_heads(*side, changed=True)


def _sides(change: str, runs):
    return runs.held_out() if change == OTHERS else runs.sides(change)


def _planted(mutant: Mutant, runs, folder) -> tuple[Learned, Learned]:
    """What the mutant's relation compares, of runs that are made again in `folder` from the mutant's stage on."""
    if mutant.change == WINDOW:
        return _windows(runs)
    looked = []
    for number, (config, run) in enumerate(_sides(mutant.change, runs)):
        if mutant.stage is not None:
            run = run_again(config, run, mutant.stage, folder / str(number))
            if mutant.change == OTHERS:
                _go_on(config, run)
        looked.append(LOOKS[mutant.looks](config, run))
    return looked[0], looked[1]


def _go_on(config, run: Run) -> None:
    """Users are held out in prepare; what must not learn of them comes later."""
    for stage in ("embed", "tokenize", "adapt"):
        run_stage(stage, config, run)
