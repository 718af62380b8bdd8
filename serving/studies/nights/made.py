"""The nights of a made world (`serving.bench.worlds`): items that come a share a night, and vectors of a space that turns every night."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recsys.embeddings.retrieval import unit_rows
from recsys.seeds import rng
from serving.bench.worlds.planted import World
from serving.studies.nights.world import Nights

DIM = 64  # of the vectors
WAVES = 4  # of a cluster's circle: items near in it have near vectors
CIRCLE, OWN, NIGHTLY = (
    0.6,
    0.4,
    0.1,
)  # lengths beside a cluster's centre, of 1: place in it, the item's own, another one every night


def made_nights(folder: Path, nights: int, new_items: float, new_events: float, seed: int = 0) -> Nights:
    """`new_items` of the items (a share) come out at the beginning of each night; what the world says of them before is left out.
    A night has `new_events` of the events of before the cut (a share).
    """
    world, generator = World.open(folder), rng(seed, "nights", "made")
    events = pq.read_table(folder / "interactions").to_pandas()
    items = pq.read_table(folder / "items").to_pandas()[["item_id", "title", "genres"]]
    times = events["timestamp"].to_numpy()
    before = len(events) / (1 + nights * new_events)
    places = (before * (1 + new_events * np.arange(nights + 1))).astype(np.int64)
    edges = np.r_[times[places[:-1]], times[-1] + 1]
    comes = np.full(len(items), -1)  # the night with which an item comes; -1: it is of before the cut
    a_night = round(new_items * len(items))
    comes[generator.permutation(len(items))[: nights * a_night]] = np.repeat(np.arange(nights), a_night)
    out = pd.Series(np.where(comes < 0, 0, edges[comes]), index=items["item_id"])
    events = events[(events["item_id"].map(out) <= events["timestamp"]).to_numpy()].reset_index(drop=True)
    planted = _planted(world, generator)

    def vectors(night: int) -> pd.DataFrame:
        """Night −1: those that the first training has."""
        tonight = rng(seed, "nights", "space", night)
        turned = np.linalg.qr(tonight.normal(size=(DIM, DIM)))[0]
        noisy = planted + NIGHTLY / DIM**0.5 * tonight.normal(size=planted.shape)
        there = comes <= night
        rows = unit_rows((noisy @ turned).astype(np.float32))[there]
        return pd.DataFrame({"item_id": items["item_id"][there], "vector": list(rows)})

    return Nights(events, items, edges, out, vectors)


def _planted(world: World, generator: np.random.Generator) -> np.ndarray:
    """[I, DIM]: a cluster's centre, a place on its circle, and something of the item's own."""
    all_items = np.arange(world.settings.items)
    clusters = world.clusters_of(all_items)
    angle = 2 * np.pi * world.places_of(all_items) / world.sizes[clusters]
    waves = np.concatenate([f(k * angle[:, None]) for k in range(1, WAVES + 1) for f in (np.sin, np.cos)], 1)
    centres = unit_rows(generator.normal(size=(world.settings.clusters, DIM)))
    circle = unit_rows(waves @ generator.normal(size=(2 * WAVES, DIM)))
    own = unit_rows(generator.normal(size=(len(all_items), DIM)))
    return centres[clusters] + CIRCLE * circle + OWN * own
