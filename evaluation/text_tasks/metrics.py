"""Metrics of text tasks, each of one instance unless it says otherwise: labels, ratings, replies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def macro_f1(targets: Sequence[int], predicted: Sequence[int]) -> float:
    """F1 averaged over the labels that occur among targets or predictions (scikit-learn's macro F1);
    of a whole table.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(targets, predicted, average="macro", zero_division=0))


def label_counts(
    targets: np.ndarray, predicted: np.ndarray, users: np.ndarray, n_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Users [U] ascending and [U, 3, n_labels]: how often each label was right,
    predicted and wanted for each user.

    Macro F1 of any sample of users follows from sums of these: see `macro_f1_of_counts`.
    """
    names, row = np.unique(users, return_inverse=True)
    counts = np.zeros((len(names), 3, n_labels))
    for number in range(len(names)):
        wanted, given = targets[row == number], predicted[row == number]
        for place, found in enumerate((wanted[wanted == given], given, wanted)):
            counts[number, place] = np.bincount(found, minlength=n_labels)
    return names, counts


def macro_f1_of_counts(counts: np.ndarray) -> np.ndarray:
    """Macro F1 [...] of counts [..., 3, n_labels]: 2·right / (predicted + wanted), over labels that occur."""
    occurs = counts[..., 1, :] + counts[..., 2, :]
    f1 = np.divide(2 * counts[..., 0, :], occurs, out=np.zeros_like(occurs), where=occurs > 0)
    return f1.sum(-1) / np.maximum((occurs > 0).sum(-1), 1)


def expected_rating(log_probs: np.ndarray, stars: np.ndarray) -> np.ndarray:
    """Σ p · stars [N] from label log-probabilities [N, L] and the labels' values [L]."""
    return np.exp(log_probs) @ stars


class Rouge:
    """ROUGE-1, -2 and -L F-measures (Lin 2004) by Google's `rouge_score`, without stemming,
    as LaMP measures them.
    """

    NAMES = ("rouge1", "rouge2", "rougeL")

    def __init__(self) -> None:
        from rouge_score import rouge_scorer

        self._scorer = rouge_scorer.RougeScorer(list(self.NAMES), use_stemmer=False)

    def scores(self, target: str, answer: str) -> dict[str, float]:
        return {name: float(score.fmeasure) for name, score in self._scorer.score(target, answer).items()}
