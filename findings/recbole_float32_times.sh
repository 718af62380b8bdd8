#!/usr/bin/env bash
# RecBole 1.2.1 sorts histories by timestamps that it has made float32. Unix seconds are then 128 s apart, so events within
# two minutes keep the file's order: of a file that is not in order of time (MovieLens' ratings.csv is by movie), sequences
# and the leave-one-out target are wrong, and nothing says so.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"
python3.11 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check recbole==1.2.1 torch==2.13.0 numpy==1.26.4 pandas==2.2.3 \
  scipy==1.11.4 setuptools==80.9.0
cat > run.py <<'PY'
import logging
import pathlib
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import numpy as np  # noqa: E402
import recbole  # noqa: E402
import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data.utils import create_dataset  # noqa: E402

print("recbole", recbole.__version__, "torch", torch.__version__, "numpy", np.__version__)


def test_row(start: int) -> tuple[list[str], str]:
    """History and target of the first user; the file is in order of items, item 0 is the latest of twelve."""
    pathlib.Path("given").mkdir(exist_ok=True)
    with open("given/given.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(3):
            for item in range(12):
                file.write(f"u{user}\ti{item}\t{start + 10 * (11 - item)}\n")
    config = Config(
        model="SASRec",
        dataset="given",
        config_dict={
            "data_path": ".",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        },
    )
    data = create_dataset(config)
    test = data.build()[2].inter_feat
    names = data.field2id_token["item_id"]
    return [str(names[i]) for i in test["item_id_list"][0].tolist() if i], str(names[int(test["item_id"][0])])


right = [f"i{n}" for n in range(11, 0, -1)], "i0"
small, real = test_row(1_000), test_row(1_700_000_000)
print("twelve events ten seconds apart, from second 1,000:        ", *small)
print("the same events from 1,700,000,000 (November 2023):        ", *real)
print("history and target in order of time:                       ", *right)
assert small == right, "small timestamps are no longer read in order"
assert real != right, "CHANGED: Unix seconds are read in order of time"
PY
venv/bin/python run.py
