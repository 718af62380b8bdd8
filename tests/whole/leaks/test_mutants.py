"""Each planted leak is seen by the relation that it breaks, and that relation sees nothing without it."""

from __future__ import annotations

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
    honest = _seen(mutant, runs)
    assert leaks(mutant.change, *honest) == []
    with pytest.MonkeyPatch.context() as planted:
        mutant.plant(planted)
        found = leaks(mutant.change, *_seen(mutant, runs, tmp_path))
    assert any(name.startswith(mutant.seen) for name in found), found


def _seen(mutant: Mutant, runs, folder=None) -> tuple[Learned, Learned]:
    """What the mutant's relation compares, of the shared runs, or of runs that are made again in `folder`."""
    if mutant.change == WINDOW:
        side = runs.sides("other test targets")[0]
        return window_heads(*side, changed=False), window_heads(*side, changed=True)
    sides = runs.held_out() if mutant.change == OTHERS else runs.sides(mutant.change)
    looked = []
    for number, (config, run) in enumerate(sides):
        if folder is not None and mutant.stage is not None:
            run = run_again(config, run, mutant.stage, folder / str(number))
            if mutant.change == OTHERS:
                _go_on(config, run)
        looked.append(LOOKS[mutant.looks](config, run))
    return looked[0], looked[1]


def _go_on(config, run: Run) -> None:
    """Users are held out in prepare; what must not learn of them comes later."""
    for stage in ("embed", "tokenize", "adapt"):
        run_stage(stage, config, run)
