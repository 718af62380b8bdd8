"""Single figures of semantic IDs that take seconds and no generator, for choosing among tables.

`prelude compare-ids` tells which of them go with the generator's recall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.data.dataset import Dataset
from recsys.run import Run
from semantic_ids.tokenizer import load_table
from semantic_ids.transitions import transition_scores


@dataclass(frozen=True)
class Score:
    meaning: str
    higher_is_better: bool  # what one would expect; the study may find otherwise


SCORES = {
    "transition_nats": Score("nats an item that a count model over codes gains over popularity", True),
    "transition_hit_rate@30": Score("expected hit-rate of 30 draws from that count model", True),
    "neighbours_first": Score("nearest items with the same first code", True),
    "neighbours_first_two": Score("nearest items with the same first two codes", True),
    "relative_error": Score("relative squared error with the final codes", False),
    "share_moved": Score("items whose codes the collision policy changed", False),
    "entropy_first": Score("entropy of the first level, of its most", True),
    "entropy_mean": Score("entropy of a level, of its most, mean over levels", True),
}


def id_scores(quality: dict[str, Any], codes: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """The figures of `SCORES`, those that exist;
    `quality` is the report of the tokenize stage, `codes` [N, L] the table's.

    transition_*: see `semantic_ids.transitions`; of validation instances, never of the test.
    neighbours_first (two): of the 10 items nearest by cosine, the share with an item's own first code (two
    codes); not where these are all codes, which no two items share.
    relative_error: Σ‖x − decode(codes)‖² / Σ‖x − mean‖², with the table's codes after the collision policy.
    share_moved: items moved by the policy / N.
    entropy of level l: H(c_l) / ln(size_l), H = ln(perplexity) in nats; 1 where all codes are used alike. A
    level with one code is left out.

    Neighbours and relative error are of the quantizer's own input space: between tables of different sources
    they compare spaces too.
    """
    near = quality["neighbours"]
    scores = transition_scores(codes, dataset)
    for depth, name in enumerate(("first", "first_two"), start=1):
        if f"share_{name}" in near and depth < codes.shape[1]:
            scores[f"neighbours_{name}"] = near[f"share_{name}"]
    scores["relative_error"] = quality["reconstruction"]["relative_error_after_policy"]
    scores["share_moved"] = quality["collisions"]["items_moved"] / quality["n_items"]
    entropies = [
        math.log(use["perplexity"]) / math.log(use["size"]) for use in quality["levels"] if use["size"] > 1
    ]
    if entropies:
        scores |= {"entropy_first": entropies[0], "entropy_mean": float(np.mean(entropies))}
    return scores


def scores_of(run: Run, dataset: Dataset | None = None) -> dict[str, float]:
    """`id_scores` of a run that has been tokenized; `dataset` is the run's, where it is loaded already."""
    dataset = dataset if dataset is not None else Dataset.load(run)
    table = load_table(run)
    return id_scores(run.read_json("tokenize", "quality.json"), table.codes[: table.n_base], dataset)


def print_scores(scores: dict[str, float], console: Console | None = None) -> None:
    """The scores as a terminal table."""
    table = Table(title="Scores, of validation where they need events", title_justify="left")
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("better")
    table.add_column("what it is")
    for name, score in SCORES.items():
        if name in scores:
            better = "higher" if score.higher_is_better else "lower"
            table.add_row(name, f"{scores[name]:.4f}", better, score.meaning)
    (console or Console()).print(table)
