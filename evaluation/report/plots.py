"""The report's pictures. Each function returns PNG bytes, or None when there is nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from evaluation.projection import MIN_TSNE_USERS, tsne_places
from evaluation.report.style import COLOURS, panels, plain, png, style
from evaluation.table.results import Results

MAX_LABELS = 8  # tastes with a colour of their own; the rest are grey
MAX_TSNE_USERS = 1500  # more take minutes, and hide one another


def training_curves(curves: Mapping[str, Mapping]) -> bytes | None:
    """One panel a training: losses (left axis) and the validation value (right axis) against steps."""
    shown = {name: curve for name, curve in curves.items() if curve.get("losses") or curve.get("validation")}
    if not shown:
        return None
    figure, axes = panels(len(shown), min(3, len(shown)), 4.2, 2.8, right=0.7)
    for axis, (name, curve) in zip(axes.flat, shown.items(), strict=False):
        style(axis, name)
        axis.set_xlabel("step")
        if curve.get("losses"):
            axis.plot(*np.array(curve["losses"], dtype=float).T, color=COLOURS[0], lw=1.4)
        axis.set_ylabel("loss", color=COLOURS[0])
        if curve.get("validation"):
            right = axis.twinx()
            right.plot(
                *np.array(curve["validation"], dtype=float).T, color=COLOURS[1], lw=1.4, marker="o", ms=3
            )
            right.set_ylabel("validation", color=COLOURS[1])
            right.locator_params(axis="y", nbins=4)
            right.spines["top"].set_visible(False)
    return png(figure)


def code_use(code_counts: Sequence[np.ndarray]) -> bytes | None:
    """One panel a level: items per code, most used first; share in use and perplexity in the title."""
    if not len(code_counts):
        return None
    figure, axes = panels(len(code_counts), len(code_counts), 4.2, 2.8)
    for level, (axis, counts) in enumerate(zip(axes[0], code_counts, strict=True), start=1):
        counts = np.sort(np.asarray(counts, dtype=float))[::-1]
        share = counts[counts > 0] / max(counts.sum(), 1.0)
        perplexity = float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0
        style(
            axis,
            f"level {level}: {np.mean(counts > 0):.0%} of {len(counts)} in use, perplexity {perplexity:.0f}",
        )
        axis.title.set_fontsize(9)
        axis.fill_between(np.arange(len(counts)), counts, step="mid", color=COLOURS[0], alpha=0.85)
        axis.set_xlabel("codes, most used first")
        axis.set_ylabel("items")
        axis.set_ylim(0, None)
    return png(figure)


def tsne_pair(
    embeddings: np.ndarray,
    prefixes: np.ndarray,
    labels: Sequence[str],
    seed: int = 0,
    are_places: bool = False,
) -> bytes | None:
    """t-SNE of user embeddings [U, d] and of the same users' prefixes [U, h] side by side (E2P, Figure 2).

    `labels` [U] name each user's taste. `are_places`: both are [U, 2] already, `tsne_places` of the vectors. None for fewer than four users, who have no neighbourhoods to
    show; of very many, a random part is shown.
    """
    embeddings, prefixes, tastes = np.asarray(embeddings), np.asarray(prefixes), np.asarray(labels, dtype=str)
    if not len(embeddings) == len(prefixes) == len(labels):
        raise ValueError(
            f"t-SNE needs one prefix and one label per user: {len(embeddings)} users, "
            f"{len(prefixes)} prefixes and {len(labels)} labels given"
        )
    if len(labels) < MIN_TSNE_USERS:
        return None
    total = len(tastes)
    if total > MAX_TSNE_USERS:
        chosen = np.sort(np.random.default_rng(seed).choice(total, MAX_TSNE_USERS, replace=False))
        embeddings, prefixes, tastes = embeddings[chosen], prefixes[chosen], tastes[chosen]
    names, counts = np.unique(tastes, return_counts=True)
    named = names[np.argsort(-counts, kind="stable")][:MAX_LABELS].tolist()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axis, vectors, title in zip(
        axes, (embeddings, prefixes), ("user embeddings", "their prefixes"), strict=True
    ):
        places = vectors if are_places else tsne_places(vectors.astype(float), seed)
        style(axis, f"{title} ({len(tastes):,} of {total:,} users)")
        axis.set_xticks([])
        axis.set_yticks([])
        rest = ~np.isin(tastes, named)
        axis.scatter(*places[rest].T, s=12, color="#c9c9c9", label="other" if rest.any() else None)
        for name, colour in zip(named, COLOURS, strict=False):
            axis.scatter(
                *places[tastes == name].T, s=14, color=colour, label=plain(str(name)), alpha=0.8, linewidths=0
            )
    axes[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return png(figure)


def forest(results: Results) -> bytes | None:
    """Each row's relative effect against the baseline with its 95 % interval; below, the primary one."""
    base = results.protocol["baseline"]
    effects = [
        (
            row["name"],
            row["relative_to_no_context_pct"],
            row["relative_ci95_pct"],
            COLOURS[0],
            row["compared_on"],
        )
        for row in results.rows
        if row["relative_ci95_pct"] is not None
    ]
    first = results.primary
    if first.get("relative_ci95_pct"):
        name = f"{first['a']} vs {first['b']}  (primary)"
        effects.append((name, first["relative_pct"], first["relative_ci95_pct"], COLOURS[3], first["figure"]))
    if not effects:
        return None
    figure, axis = plt.subplots(figsize=(8.4, 0.42 * len(effects) + 1.2), layout="constrained")
    style(axis, f"against {base}, and the primary comparison: relative effect, 95 % interval over users")
    axis.axvline(0, color="#888888", lw=1)
    for place, (_, centre, (low, high), colour, figure_name) in enumerate(reversed(effects)):
        ranked = figure_name.startswith("top")
        axis.plot([low, high], [place, place], color=colour, lw=2, alpha=0.45 if ranked else 0.9)
        axis.plot(centre, place, "D" if ranked else "o", color=colour, ms=6)
    axis.set_yticks(range(len(effects)), [name for name, *_ in reversed(effects)])
    axis.set_xlabel("%   (circles: expected hit-rate; diamonds: ranked list, where a row has no draws)")
    axis.set_ylim(-0.6, len(effects) - 0.4)
    return png(figure)


def by_group(groups: Sequence[Mapping]) -> bytes | None:
    """One small panel a row, so that many stay readable: its figure in each group with the 95 % interval,
    and in grey the baseline's by the same figure. `groups` as in `Results.groups`; None for fewer than two.
    """
    if len(groups) < 2:
        return None
    names = [row["name"] for row in groups[0]["rows"]]
    columns = min(4, len(names))
    figure, axes = panels(len(names), columns, 2.9, 2.3, sharex=True, sharey=True)
    places = np.arange(len(groups))
    for axis, at in zip(axes.flat, range(len(names)), strict=False):
        rows = [group["rows"][at] for group in groups]
        values = np.array([row["value"] for row in rows])
        bounds = np.array([row["ci95"] or [row["value"]] * 2 for row in rows]).T
        base = [np.nan if row["baseline_value"] is None else row["baseline_value"] for row in rows]
        style(axis, names[at])
        axis.title.set_fontsize(9)
        axis.plot(places, base, color="#b0b0b0", lw=1.2)
        marker = "D" if rows[0]["figure"].startswith("top") else "o"
        axis.errorbar(places, values, yerr=[values - bounds[0], bounds[1] - values], color=COLOURS[0], lw=1.4,
                      marker=marker, ms=4, capsize=2)  # fmt: skip
        axis.set_xticks(places, [str(group["group"]) for group in groups], rotation=45)
        axis.tick_params(labelbottom=at + columns >= len(names))  # the last panel of each column
    axes[0, 0].set_ylim(0, None)  # of all, once all are drawn
    return png(figure)
