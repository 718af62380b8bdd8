"""The report's pictures. Each function returns PNG bytes, or None when there is nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.projection import MIN_TSNE_USERS, tsne_places
from evaluation.report.style import COLOURS, SMALL, framed, panels, plain, png, style, widest
from evaluation.table.results import Results

MAX_LABELS = 8  # tastes with a colour of their own; the rest are grey
MAX_TSNE_USERS = 1500  # more take minutes, and hide one another


def training_curves(curves: Mapping[str, Mapping]) -> bytes | None:
    """One panel a training: losses and validation values against steps, each on its own scale, and in words from where to where.

    All on one axis: an axis of its own for each, with ticks and a second scale, costs ten times as much and says no more.
    """
    shown = {name: curve for name, curve in curves.items() if curve.get("losses") or curve.get("validation")}
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure, axis = framed(3.9 * columns, 2.1 * lines, 0.1, 0.1, 0.05, 0.05)
    axis.set_axis_off()
    axis.set_xlim(0, 3.9 * columns)
    axis.set_ylim(-2.1 * lines, 0)  # inches
    for at, (name, curve) in enumerate(shown.items()):
        left, top = 3.9 * (at % columns), -2.1 * (at // columns)
        losses, values = (
            np.array(curve.get(kind) or [], float).reshape(-1, 2) for kind in ("losses", "validation")
        )
        last = max(points[-1, 0] for points in (losses, values) if len(points))
        axis.text(left, top - 0.1, plain(f"{name}, {last:,.0f} steps"), fontsize=9, va="top")
        if len(losses):
            axis.plot(*_inside(losses, last, left, top), color=COLOURS[0], lw=1.4)
            said = f"loss {losses[0, 1]:.4g} to {losses[-1, 1]:.4g}"
            axis.text(left, top - 0.3, said, fontsize=SMALL, va="top", color=COLOURS[0])
        if len(values):
            best = int(values[:, 1].argmax())
            places = _inside(values, last, left, top)
            axis.plot(*places, color=COLOURS[1], lw=1.4, marker=".", ms=4)
            axis.plot(*places[:, best], "o", color=COLOURS[1], ms=7, mfc="white")
            said = f"validation {values[0, 1]:.4g} to {values[best, 1]:.4g}, at step {values[best, 0]:,.0f}"
            axis.text(left, top - 0.46, said, fontsize=SMALL, va="top", color=COLOURS[1])
    return png(figure)


def _inside(points: np.ndarray, last: float, left: float, top: float) -> np.ndarray:
    """Points [n, 2] as places [2, n] of their panel, in inches: steps from 0 to `last`, values from the least to the largest."""
    steps, values = points.T
    low, high = values.min(), values.max()
    height = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    return np.stack([left + 3.4 * steps / max(last, 1), top - 1.95 + 1.2 * height])


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
    beside = widest([*named, "other"], SMALL) + 0.5
    figure, axes = panels(2, 2, 4.6, 4.4, beside=beside)
    for axis, vectors, title in zip(
        axes[0], (embeddings, prefixes), ("user embeddings", "their prefixes"), strict=True
    ):
        places = vectors if are_places else tsne_places(vectors.astype(float), seed)
        style(axis, f"{title} ({len(tastes):,} of {total:,} users)")
        axis.set_xticks([])
        axis.set_yticks([])
        rest = ~np.isin(tastes, named)
        if rest.any():
            axis.plot(*places[rest].T, "o", ms=3.5, color="#c9c9c9", label="other", mew=0)
        for name, colour in zip(named, COLOURS, strict=False):
            of_taste = places[tastes == name].T
            axis.plot(*of_taste, "o", ms=3.7, color=colour, label=plain(str(name)), alpha=0.8, mew=0)
    axes[0, 1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=SMALL)
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
    names = [name for name, *_ in reversed(effects)]
    figure, axis = framed(8.4, 0.42 * len(effects) + 1.0, widest(names, SMALL) + 0.2)
    style(axis, f"relative effect against {base}, and the primary comparison; 95 % interval over users")
    axis.axvline(0, color="#888888", lw=1)
    places = np.arange(len(effects))
    _, centres, ends, colours, figures = (np.array(one) for one in zip(*reversed(effects), strict=True))
    ranked = np.array([one.startswith("top") for one in figures])
    axis.hlines(
        places, ends[:, 0], ends[:, 1], colors=colours.tolist(), lw=2, alpha=np.where(ranked, 0.45, 0.9)
    )
    for some, marker in ((~ranked, "o"), (ranked, "D")):
        axis.scatter(centres[some], places[some], s=36, c=colours[some], marker=marker)
    axis.set_yticks(range(len(effects)), names)
    axis.set_xlabel("%   (circles: expected hit-rate; diamonds: ranked list, where a row has no draws)")
    axis.set_ylim(-0.6, len(effects) - 0.4)
    return png(figure)


def by_group(groups: Sequence[Mapping]) -> bytes | None:
    """One small panel a row, so that many stay readable: its figure in each group with the 95 % interval,
    and in grey the baseline's by the same figure. `groups` as in `Results.groups`; None for fewer than two.
    """
    if len(groups) < 2:
        return None
    names, labels = [row["name"] for row in groups[0]["rows"]], [str(group["group"]) for group in groups]
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    # the panels of a line are places on one axis: an axis of its own for each costs five times as much
    figure, axes = panels(lines, 1, 2.9 * columns, 2.3, sharex=True, sharey=True)
    apart = len(groups) + 0.5
    for line, axis in enumerate(axes[:, 0]):
        style(axis, "")
        mine = range(line * columns, min((line + 1) * columns, len(names)))
        rows = [[group["rows"][at] for group in groups] for at in mine]
        # [panels, groups + 1]: the last of each is nothing, so that no line goes from panel to panel
        places = np.arange(len(mine))[:, None] * apart + np.arange(len(groups) + 1)
        values = _padded([[row["value"] for row in some] for some in rows])
        base = _padded([[row["baseline_value"] for row in some] for some in rows])
        ends = np.array([[row["ci95"] or [row["value"]] * 2 for row in some] for some in rows])
        axis.plot(places.flat, base.flat, color="#b0b0b0", lw=1.2)
        ranked = np.array([some[0]["figure"].startswith("top") for some in rows])
        for kind, marker in ((~ranked, "o"), (ranked, "D")):
            if kind.any():
                axis.plot(places[kind].flat, values[kind].flat, color=COLOURS[0], lw=1.4, marker=marker, ms=4)
        axis.vlines(places[:, :-1].ravel(), *ends.reshape(-1, 2).T, color=COLOURS[0], lw=1.4)
        axis.vlines(places[1:, 0] - 0.75, 0, 1, color="#dfe3e8", lw=1, transform=axis.get_xaxis_transform())
        for at, left in zip(mine, places[:, 0], strict=True):
            axis.text(left - 0.4, 1.02, plain(names[at]), fontsize=9, transform=axis.get_xaxis_transform())
    for axis in axes[:-1, 0]:
        axis.xaxis.set_visible(False)
    every = [column * apart + place for column in range(columns) for place in range(len(groups))]
    axes[-1, 0].set_xticks(every, labels * columns, rotation=45)
    axes[-1, 0].set_xlim(-0.75, columns * apart - 0.75)
    axes[0, 0].set_ylim(0, None)  # of all, once all are drawn
    return png(figure)


def _padded(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """[panels, groups + 1]: what does not exist, and the last of each, NaN."""
    return np.array([[*some, None] for some in rows], dtype=float)
