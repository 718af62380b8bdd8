"""The table of peers, in Markdown and JSON."""

from __future__ import annotations

from typing import Any

from serving.bench.peers.judge import seconds_to

COLUMNS = (
    "row", "seconds an epoch, CPU (wall)", "epochs", "CPU seconds until validation's R@10 ≥ {reach:g}",
    "R@10, seen set aside", "NDCG@10, seen set aside", "R@10, all items", "NDCG@10, all items",
    "users a CPU second", "peak memory, MiB",
)  # fmt: skip


def markdown(rows: list[dict[str, Any]], reach: float) -> str:
    """The table, and below it what a row's figures rest on."""
    lines = [
        "| " + " | ".join(column.format(reach=reach) for column in COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells(row, reach)) + " |" for row in rows),
        "",
        *(f"- {row['name']}: {remark(row)}" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def cells(row: dict[str, Any], reach: float) -> list[str]:
    if "failed" in row:
        return [row["name"], *["–"] * (len(COLUMNS) - 1)]
    curve, asked = row["curve"], row["asked"]
    epochs = curve[-1]["epochs"] if curve else 0.0
    reached = seconds_to(curve, reach)
    figures = [_figure(row[column], name) for column in ("set_aside", "all") for name in ("recall", "ndcg")]
    return [
        row["name"],
        f"{row['cpu_seconds'] / epochs:.3g} ({row['seconds'] / epochs:.3g})"
        if epochs and row["seconds"]
        else "–",
        f"{epochs:.3g}" if epochs else "–",
        f"{reached['cpu_seconds']:.3g}" if reached else "–",
        *figures,
        f"{asked['users'] / max(asked['cpu_seconds'], 1e-9):,.0f}",
        f"{row['peak_bytes'] / 2**20:,.0f}",
    ]


def remark(row: dict[str, Any]) -> str:
    """Where its settings are from, why it ended, versions, and what is odd about its lists."""
    if "failed" in row:
        return f"no figures: {row['failed']}"
    said = [row["source"]]
    if row["curve"]:
        best = max(row["curve"], key=lambda one: one["recall"])
        ends = {
            "time": "stopped by the time given to it",
            "patience": "stopped for want of a better validation",
        }
        said.append(
            f"best validation R@10 {best['recall']:.4f} after {best['epochs']:.3g} epochs, "
            f"{best['cpu_seconds']:.4g} CPU s ({best['seconds']:.4g} s)"
        )
        said.append(ends.get(row["stopped"], "ran to its end"))
    if row.get("chosen"):
        said.append(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row["chosen"].items()))
    for column, words in (("set_aside", "with seen items set aside"), ("all", "of all items")):
        if row[column]["short_lists"]:
            said.append(f"{row[column]['short_lists']:,} lists {words} shorter than asked for")
    if row["set_aside"]["seen_items"]:
        said.append(f"{row['set_aside']['seen_items']:,} seen items that were to be set aside")
    said.append(", ".join(f"{name} {number}" for name, number in row["versions"].items()))
    return "; ".join(said)


def _figure(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_interval"] or (float("nan"),) * 2
    return f"{figures[name]:.4f} ({low:.4f}–{high:.4f})"
