"""Pictures of a run's experiments (`online`, `drift`, `audit`, `analyse`, `attention`), for its report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llm.methods.tap_per import TapPerConfig
from recsys.data.splits import TEST
from recsys.run import Run
from serving.config.run import load_config

# the pictures of each experiment -> its heading in the report, and what the reader must know; a picture is of the first that it fits
EXPERIMENTS = {
    "online/*": (
        "TAP-PER online",
        "Streamed feedback in chunks, each predicted before it is absorbed; 95 % intervals over users. "
        "Figures: online/online.json.",
    ),
    "drift/*": (
        "E2P over time",
        "φ stays frozen while embeddings go on: stale, refreshed, and of a retrained GNN with and without "
        "alignment; 95 % intervals over users. Figures: drift/drift.json.",
    ),
    "analyses/audit/*": (
        "Beyond accuracy",
        "What the lists do to people and to the catalogue; 95 % intervals over people. Figures, groups and definitions: "
        "analyses/audit/audit.json and docs/audit.md.",
    ),
    "analyses/loop/*": (
        "The feedback loop",
        "Simulated people choose from the lists, and the run learns from it; 95 % intervals over seeds. Figures and the choice model: "
        "analyses/loop/loop.json.",
    ),
    "analyses/context-*/*": (
        "What a vector is worth",
        "Expected hit-rate by items shown, with a user's own vector, another's and none. Figures: analyses/context-*/context.json.",
    ),
    "analyses/*/*": (
        "P2P's analyses",
        "Profiles at test time of one trained hypernetwork. Figures: analyses/*/p2p.json.",
    ),
}
ATTENTION_CAPTION = (
    "P_q's weights over one test user's records, as trained and with the time biases set to 0 in the same "
    "scorer (TAP-PER, Figure 3). Any user's: prelude attention RUN --user U."
)
# what an experiment is an experiment on: a picture from before one of these ended is of another training
TRAINED = ("prepare", "embed", "tokenize", "adapt", "personalize", "combine", "align")
LEAST_RECORDS = 20  # of the user whose attention is shown, where somebody has them


def experiment_pictures(run: Run) -> list[tuple[str, str, bytes | None]]:
    """(heading, caption, PNG) of every picture there is of the run as it is; one that is older than what was trained is left out, and said."""
    left: dict[Path, tuple[str, str, bytes | None]] = {}
    trained = max((found["finished_unix_s"] for stage in TRAINED if (found := run.record(stage))), default=0)
    old = set()
    for place, (heading, caption) in EXPERIMENTS.items():
        for picture in sorted(run.path.glob(f"{place}.png")):
            if picture.stat().st_mtime < trained:
                old.add(str(picture.relative_to(run.path)))
                continue
            title = f"{heading}: {picture.stem.replace('_', ' ')}"
            left.setdefault(picture, (title, caption, picture.read_bytes()))
    if old:
        print(
            "report: drawn before the run's last training, so left out (run the analysis again): "
            + ", ".join(sorted(old))
        )
    return [*left.values(), ("What P_q attends to", ATTENTION_CAPTION, attention_picture(run))]


def attention_picture(run: Run) -> bytes | None:
    """Attention over the history of the first test user with `LEAST_RECORDS` records (else with the most);
    None without a P_q, or without the run's configuration.
    """
    if not (run.path / "config.yaml").exists():  # stages called one by one, from Python
        return None
    trained = load_config(None, base=run.read_config()).personalize.methods
    method = next((one for one in trained if isinstance(one, TapPerConfig) and one.records), None)
    if method is None:  # known before anything is loaded
        return None
    # a quarter of a second, for the few runs that need it
    from serving.answering.recommender import Recommender
    from serving.report.attention import attention_of

    service = Recommender.load(run.path)
    data = service.methods.dataset
    users = data.users[data.events(TEST)]
    if not len(users):
        return None
    lengths = data.offsets[users + 1] - data.offsets[users]
    user = int(users[np.argmax(np.minimum(lengths, LEAST_RECORDS))])
    found = attention_of(service, str(data.user_ids[user]), method.key)
    return found.picture(f"{method.name}: one user's attention over {len(found.items):,} records")
