"""A peer of `make bench-peers` that counts: popularity over the contract alone, for tests of the way that peers go."""

from __future__ import annotations

import numpy as np

from serving.bench.peers.contract import Requests, Task, best_of_scores


def main() -> None:
    task = Task.from_command_line()
    if task.settings.get("fails"):
        raise SystemExit("this peer was told to fail")
    with task.clock.running():
        counts = np.bincount(task.split.items, minlength=task.split.n_items).astype(float)

    def recommend(requests: Requests, set_aside: bool) -> np.ndarray:
        return best_of_scores(np.tile(counts, (len(requests), 1)), requests, set_aside)

    task.validate(1, recommend=recommend)
    task.finish(recommend, "end", ["numpy"])


if __name__ == "__main__":
    main()
