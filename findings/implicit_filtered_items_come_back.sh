#!/usr/bin/env bash
# implicit 0.7.3: what recommend() is told to filter comes back where fewer than N items are left: items that the user has had
# (filter_already_liked_items), items that must not be shown (filter_items), and both among given candidates (items=…). They stand
# behind the others with the score -3.4e38 (the smallest float32). No error and no shorter list; the docstring says "don't return".
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"
python3.11 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check implicit==0.7.3 numpy==2.4.6 scipy==1.17.1
cat > run.py <<'PY'
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import implicit  # noqa: E402
import numpy as np  # noqa: E402
from implicit.als import AlternatingLeastSquares  # noqa: E402
from scipy import sparse  # noqa: E402

print("implicit", implicit.__version__, "numpy", np.__version__)
had = np.random.default_rng(0).random((50, 40)) < 0.3
had[0], had[0, [3, 7]] = True, False  # user 0 has had all items but two
events = sparse.csr_matrix(had.astype(np.float32))
model = AlternatingLeastSquares(factors=4, iterations=5, random_state=0, num_threads=1)
model.fit(events, show_progress=False)

found, scores = model.recommend(0, events[0], N=10)
back = [int(item) for item in found if had[0, item]]
print(f"user 0 has had all but items 3 and 7; ten are asked, seen ones filtered: {found.tolist()}")
print(f"of these had before: {len(back)}, their scores {sorted(set(scores[2:].tolist()))}")
few = [3, 20, 21, 22]
shown, _ = model.recommend(0, events[0], N=3, items=few)
print(f"the same of the candidates {few}, of which item 3 alone is new, three asked: {shown.tolist()}")
banned = list(range(35))
kept, _ = model.recommend(1, events[1], N=10, filter_already_liked_items=False, filter_items=banned)
print(f"ten of user 1 with filter_items=0…34: {kept.tolist()}")
assert set(found[:2].tolist()) == {3, 7}, "the two that are left do not come first"
assert len(back) == 8, "CHANGED: items that were had are no longer in a filtered list"
assert len(shown) == 3 and shown[0] == 3, "CHANGED: candidates that were had are no longer in a filtered list"
assert sum(int(item) < 35 for item in kept) == 5, "CHANGED: items of filter_items are no longer in the list"
PY
venv/bin/python run.py
