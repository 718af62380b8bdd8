#!/usr/bin/env bash
# cornac 3.0.1: session_seq_iter (TIGER, SASRec and FPMC train by it) with shuffle=True shuffles users, not rows: a batch is
# filled with one user's prefixes, one after the other, before the next user's. Of 100 users with 301 events each, a batch of
# 256 holds two users, where 256 shuffled rows would hold 92; and a last batch of one row is left out.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"
python3.11 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check cornac==3.0.1 torch==2.13.0 numpy==2.4.6
cat > run.py <<'PY'
import cornac
import numpy as np
from cornac.data import SequentialDataset
from cornac.models.seq_utils import session_seq_iter
from cornac.utils import get_rng

print("cornac", cornac.__version__, "numpy", np.__version__)


def batches(events: int, users: int) -> list[np.ndarray]:
    """The users of the rows of each batch of an epoch."""
    rows = [(f"u{u}", f"u{u}", f"i{(u * 37 + t * 11) % 500}", t) for u in range(users) for t in range(events)]
    data = SequentialDataset.build(rows, fmt="USIT", seed=1)
    made = session_seq_iter(data, pad_index=500, batch_size=256, n_sample=0, rng=get_rng(1), shuffle=True)
    return [users for users, _, _ in made]


users = [len(set(some.tolist())) for some in batches(301, 100)]
rows = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 300))
mixed = [len(set(rows[start : start + 256])) for start in range(0, len(rows), 256)]
print(f"users in a batch of 256 of 100 users' rows: {np.mean(users):.1f}; of shuffled rows: {np.mean(mixed):.1f}")
trained = sum(map(len, batches(258, 1)))
print(f"of 257 rows, one more than a batch, an epoch holds {trained}")
assert np.mean(users) < 5, "CHANGED: rows are mixed over users"
assert trained == 256, "CHANGED: the last row is trained on"
PY
venv/bin/python run.py
