"""The runs that all of these tests share: of the honest world, and of each change to it."""

from __future__ import annotations

import pytest

from recsys.data.dataset import Dataset
from recsys.data.splits import WARM
from recsys.run import Run
from serving.config.run import RunConfig
from tests.support.leaks.runs import run_world
from tests.support.leaks.worlds import CHANGES, TEST_CHANGES, other_events_of, world
from tests.support.worlds import hashes_of

Side = tuple[RunConfig, Run]


class Runs:
    """Finished runs by the change of their world (None: the honest one), made when they are asked for."""

    def __init__(self, folder):
        self._folder, self._made = folder, {}

    def sides(self, change: str) -> tuple[Side, Side]:
        """The honest run and that of the changed world; validation has choices where the test changes."""
        choices = change in TEST_CHANGES
        return self._run(None, choices), self._run(change, choices)

    def held_out(self) -> tuple[Side, Side]:
        """Both with a quarter of the users held out, whose events differ."""
        honest = self._get("held out", lambda folder: run_world(world(), folder, user_split=True))
        groups = Dataset.load(honest[1]).user_groups
        users = [number for number, group in enumerate(groups) if group != WARM]
        assert len(users) == 10
        changed = other_events_of(world(), users)
        return honest, self._get(
            "held out, changed", lambda folder: run_world(changed, folder, user_split=True)
        )

    def _run(self, change: str | None, choices: bool) -> Side:
        changed = CHANGES[change](world()) if change else world()
        return self._get(
            f"{change or 'honest'}, {choices}", lambda folder: run_world(changed, folder, choices)
        )

    def _get(self, name: str, make) -> Side:
        if name not in self._made:
            side = make(self._folder / name)
            self._made[name] = side, hashes_of(side[1].path)
        return self._made[name][0]

    def check(self) -> None:
        changed = [name for name, (side, hashes) in self._made.items() if hashes_of(side[1].path) != hashes]
        assert not changed, f"a test has changed runs that all share: {changed}"


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("leaks"))
    yield made
    made.check()
