"""What the stage `embed` prints of what it found."""

from __future__ import annotations

from typing import Any

from recsys.embeddings import sequence_parts
from recsys.terminal import escaped


def print_summary(report: dict[str, Any]) -> None:
    """Print the hit-rates on validation, what the leak check could see, and what is odd about brought vectors."""
    k = report["hit_rate_k"]
    if "lightgcn" in report and "half_life_items" in report:
        inductive = report["lightgcn"]["validation_hit_rate_by_seed"]
        faded = report["inductive_validation_hit_rate_by_half_life"][str(report["half_life_items"])]
        print(
            f"embed: retrieval hit-rate@{k} on validation: transductive vectors "
            f"{report['lightgcn']['transductive_validation_hit_rate']:.4f}, inductive {max(inductive):.4f}, "
            f"inductive with a half-life of {report['half_life_items']} items {faded:.4f}"
        )
    for name, label in sequence_parts.LABELS.items():
        if name in report:
            found = report[name]
            print(
                f"embed: {label} on {found['validation_instances']} validation instances: NDCG@10 "
                f"{found['validation_ndcg@10']:.4f}, recall@10 {found['validation_recall@10']:.4f}, "
                f"hit-rate@30 {found['validation_hit_rate@30']:.4f} (best at step {found['best_step']})"
            )
    if (knn := report["item_knn"]) is None:
        print("embed: no item-kNN (embed.item_knn: null)")
    else:
        best = max(row["hit_rate"] for row in knn["validation_hit_rates"])
        print(
            f"embed: item-kNN on validation: hit-rate@{k} {best:.4f} with a half-life of {knn['half_life_items']} items "
            f"and a shrinkage of {knn['shrink_users']:g} users"
        )
    check = report["leak_check"]
    if isinstance(check, dict) and check["smallest_seen"] is None:
        print(
            "embed: leak check not possible: fewer than two users have both training and validation targets"
        )
    elif isinstance(check, dict):
        print(
            f"embed: leak check passed: hit-rate@{k} over users on training targets {check['train_rate']:.4f}, "
            f"on validation targets {check['validation_rate']:.4f}; an excess above {check['margin']:.4f} is a leak, and the smallest that "
            f"would have been seen four times in five is {check['smallest_seen']:.4f}"
        )
    else:
        print(escaped(f"embed: leak check {check}"))
    for one in report.get("suspicions", ()):
        print(escaped(f"embed: {'accepted' if one['accepted'] else 'note'}: {one['message']}"))
