"""implicit's ALS (Hu, Koren & Volinsky 2008) as a peer: users are their histories, folded in."""

from __future__ import annotations

import numpy as np
from implicit.als import AlternatingLeastSquares
from scipy import sparse

from serving.bench.peers.contract import K, Requests, Task


def main() -> None:
    task = Task.from_command_line()
    split, own = task.split, task.settings
    model = AlternatingLeastSquares(
        factors=own["factors"], regularization=own["regularization"], alpha=own["alpha"],
        iterations=1, num_threads=own["threads"], random_state=own["seed"],
    )  # fmt: skip
    seen = _matrix(split.users, split.items, split.n_users, split.n_items)

    def recommend(requests: Requests, set_aside: bool) -> np.ndarray:
        histories = _matrix(requests.rows, requests.items, len(requests), split.n_items)
        lists, scores = model.recommend(
            np.arange(len(requests)), histories, N=K, filter_already_liked_items=set_aside, recalculate_user=True
        )  # fmt: skip
        lists = lists.astype(np.int64)
        # where fewer than K are left, what was filtered comes back with the lowest score there is
        return np.where(scores > -1e30, lists, -1)

    kept = None
    for iteration in range(own["iterations"]):
        with task.clock.running():
            model.fit(seen, show_progress=False)  # goes on from the factors that it has
        if task.validate(iteration + 1, recommend=recommend):
            kept = model.user_factors.copy(), model.item_factors.copy()
        if task.stop:
            break
    assert kept is not None
    model.user_factors, model.item_factors = kept
    model._YtY = None  # of the last factors; made anew from those that are kept
    task.finish(recommend, task.stop or "end", ["implicit", "scipy", "numpy"])


def _matrix(rows: np.ndarray, items: np.ndarray, n_rows: int, n_items: int) -> sparse.csr_matrix:
    """1 where there is an event, however many there are."""
    matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, items)), shape=(n_rows, n_items))
    matrix.data[:] = 1
    return matrix


if __name__ == "__main__":
    main()
