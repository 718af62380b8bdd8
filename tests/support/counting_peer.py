"""A peer of `make bench-peers` that counts: popularity over the contract alone, for tests of the way that peers go."""

from __future__ import annotations

import json

import numpy as np

from serving.bench.peers.contract import Requests, Task, best_of_scores, whole


def main() -> None:
    task = Task.from_command_line()
    if task.settings.get("fails"):
        raise SystemExit("this peer was told to fail")
    with task.clock.running():
        counts = np.bincount(task.split.items, minlength=task.split.n_items).astype(float)

    def recommend(requests: Requests, set_aside: bool) -> np.ndarray:
        return best_of_scores(np.tile(counts, (len(requests), 1)), requests, set_aside)

    if task.kept.exists():
        task.go_on(json.loads(task.kept.read_text()))
    task.validate(len(task.curve) + 1, recommend=recommend)
    whole(task.kept, lambda path: path.write_text(json.dumps(task.progress())))
    if task.settings.get("dies") and len(task.curve) == 1:
        raise SystemExit("this peer was told to die")
    task.finish(recommend, "end", ["numpy"])


if __name__ == "__main__":
    main()
