"""The words of a made world: what a cluster is called, titles of its items, and a sentence about each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.seeds import derive, uniforms_at
from serving.bench.worlds.planted import World


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


STYLES = _listed(
    "quiet loud slow fast warm cold bright dark early late modern ancient rural urban northern southern gentle wild "
    "simple ornate funny sad brave shy bitter sweet rough smooth long short electric wooden golden silver foreign local "
    "sacred secular heavy light"
)
KINDS = _listed(
    "jazz folk opera thriller comedy western drama mystery romance fantasy poetry travel cooking history science "
    "gardening boxing sailing chess ballet"
)
ADJECTIVES = _listed(
    "amber broken distant empty faithful hidden hollow iron last lonely lost midnight narrow pale patient restless "
    "second silent sunken velvet"
)
NOUNS = _listed(
    "harbor orchard bridge letter mountain mirror garden river station lantern window island kitchen forest tower "
    "machine circus desert winter engine castle market shadow dancer teacher captain doctor painter sister brother "
    "horse falcon tiger wolf rose violin piano drum clock compass"
)
OWN_NOUNS = 5  # a cluster's titles are about so many things


def kind(cluster: int) -> str:
    """What a broad part of the clusters have in common: 40 styles each."""
    return KINDS[cluster // len(STYLES) % len(KINDS)].capitalize()


def name(cluster: int) -> str:
    """Quiet Jazz; one beyond the 800 pairs of words has a number as well."""
    again = cluster // (len(STYLES) * len(KINDS))
    return f"{STYLES[cluster % len(STYLES)].capitalize()} {kind(cluster)}{f' {again + 1}' if again else ''}"


def item_rows(world: World, start: int, stop: int, text: bool) -> Iterator[dict[str, str]]:
    """Rows of the items file: item_id, title, genres (`kind|name`), and with `text` a description."""
    items = np.arange(start, stop)
    draws = uniforms_at(np.array(derive(world.settings.seed, "worlds", "title"), np.uint64), items)
    for item, cluster, draw in zip(
        items.tolist(), world.clusters_of(items).tolist(), draws.tolist(), strict=True
    ):
        number = int(draw * len(ADJECTIVES) * OWN_NOUNS)
        adjective, noun = ADJECTIVES[number % len(ADJECTIVES)], _noun(cluster, number // len(ADJECTIVES))
        row = {
            "item_id": f"i{item}",
            "title": f"The {adjective.capitalize()} {noun.capitalize()} {item}",
            "genres": f"{kind(cluster)}|{name(cluster)}",
        }
        if text:
            other = _noun(cluster, number // len(ADJECTIVES) + 1)
            row["description"] = (
                f"{name(cluster)} about a {adjective} {noun} and the {other} that was never spoken of."
            )
        yield row


def _noun(cluster: int, which: int) -> str:
    return NOUNS[(cluster * 7 + which % OWN_NOUNS) % len(NOUNS)]
