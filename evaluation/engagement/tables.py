"""The engagement predictor's own quality: tables to stand beside the music table, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.report.tables import (  # fmt: skip
    NONE,
    Column,
    TitledTable,
    interval,
    number,
    rate,
    signed,
    signed_interval,
    text,
)


def predictor_tables(quality: Mapping[str, Any]) -> list[TitledTable]:
    """Title, columns and rows; `quality` as `evaluation.engagement.quality.predictor_quality` gives it."""
    figures: list[Column] = [
        ("AUC", "auc", rate), ("log loss", "log_loss", number(4)), ("Brier", "brier", rate),
        ("ECE", "ece", rate),
    ]  # fmt: skip
    saved: list[Column] = [
        ("log loss saved", "log_loss_saved", signed),
        ("95 % interval", "log_loss_saved_ci95", signed_interval),
    ]
    name: Column = ("Prediction", "name", text)
    chosen = {"name": f"{quality['chosen']} (chosen, calibrated)"} | {
        key: quality[key] for _, key, _ in figures
    }
    rows = [chosen | dict.fromkeys(("log_loss_saved", "log_loss_saved_ci95")), *quality["baselines"]]
    variants: list[Column] = [
        ("Variant", "name", text),
        ("validation log loss", "log_loss", number(4)),
        ("AUC", "auc", rate),
        *((f"test {head}", "test", _inside(key, show)) for head, key, show in figures),
    ]
    reliability: list[Column] = [
        ("from", "low", rate), ("to", "high", rate), ("items", "n", number(0)),
        ("predicted", "predicted", rate), ("engaged", "observed", rate),
        ("95 % interval", "observed_ci95", interval),
    ]  # fmt: skip
    tables: list[TitledTable] = [
        ("Engagement predictor on test lists, and what it must beat", [name, *figures, *saved], rows),
        ("Engagement predictor: variants, as validation ranks them", variants, quality["variants"]),
        ("Engagement predictor: reliability by quantile of prediction", reliability, quality["reliability"]),
    ]
    if quality["groups"]:
        parts: list[Column] = [("Part", "name", text), ("lists", "n_lists", number(0)), *figures]
        tables.append(("Engagement predictor by part of the test", parts, quality["groups"]))
    return tables


def _inside(key: str, show):
    return lambda figures: show(figures[key])


def describe_predictor(quality: Mapping[str, Any]) -> list[str]:
    """How good the judge is and how much of that is personal, in plain sentences."""
    inside, other, order = quality["within_list"], quality["shuffled"], quality["order"]
    words = [
        f"The judge: {quality['chosen']}, fitted on lists that no generator trained on, chosen by log loss "
        "on one half of the validation users (an order-aware variant only where it is surely better) and "
        "calibrated on the other.",
        f"On {quality['n_shown']:,} items of {quality['n_lists']:,} test lists ({quality['n_users']:,} "
        f"users, {quality['share_engaged']:.0%} engaged; {quality['n_lists_of_training_users']:,} lists are "
        f"of users whose earlier lists it was fitted on, {quality['n_lists_of_unknown_users']:,} of users "
        f"without a vector) its AUC is {rate(quality['auc'])} ({interval(quality['auc_ci95'])}), and "
        f"{rate(inside['auc'])} ({interval(inside['auc_ci95'])}) inside the {inside['n_lists']:,} lists with "
        "both labels.",
        f"Calibration error {rate(quality['ece'])}; {rate(quality['ece_by_chance'])} would be there by "
        "chance if it were exact.",
        f"Order: {order['order_aware']} against {order['order_free']} saves "
        f"{signed(order['log_loss_saved'])} nats of log loss "
        f"({signed_interval(order['log_loss_saved_ci95'])}).",
    ]
    if other is not None:
        bounds = other["lost_ci95"]
        personal = bounds is not None and bounds[0] > 0
        words.append(
            f"With another user's vector ({other['permutations']} permutations) its AUC goes from "
            f"{rate(other['auc_own'])} to {rate(other['auc_shuffled'])} (lost {signed(other['lost'])}, "
            f"{signed_interval(bounds)}; inside lists {rate(other['within_list_own'])} to "
            f"{rate(other['within_list_shuffled'])}). "
            + (
                "That part of it is about the person. What falls inside lists is all that can reward "
                "personalization: the rest is how readily a user engages at all."
                if personal
                else "So nothing of it is shown to be about the person, and on this data predicted "
                "engagement cannot reward personalization: look at what each row's own probabilities "
                "say, and at affinity."
            )
        )
    return [line.replace(f"({NONE})", "").replace("  ", " ") for line in words]
