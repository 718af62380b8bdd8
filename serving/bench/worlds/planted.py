"""A world of users and items whose next-item probabilities are known in closed form, and its events, block by block.

Items are dealt into C clusters of like size, and have a *place* in theirs (0 … n−1). With t in [0, 1) the share of the world's time that
has passed, what user u has next, the last thing having been `last`, is

    p(i | u, t, last) = f · [i = succ(last)] + (1 − f) · q(i | u, t)                            (f = 0 for a first event)
    q(i | u, t)       = Σ_c P(c | u, t) · z_t(place of i) · [i in c]
    P(c | u, t)       = (1 − ν) · ((1 − δ t) [c = a_u] + δ t [c = b_u]) + ν · n_c / I
    z_t(place)        ∝ (r + m)^−s,  r = (place − ⌊τ n t⌋) mod n                                (Zipf–Mandelbrot)

f is `follow`: people walk on, and succ is the item of the next place, cyclic. ν is `noise`. δ is `drift`: users go over from a first taste
a_u to a second one b_u. τ is `trend`: what is popular in a cluster moves on by so large a part of it. s and m are `skew` and `flat`. Users
are active, and clusters liked, by a Zipf–Mandelbrot law too.

Every draw is `uniforms_at(its purpose, the event's number)`: no block size, and no order of work, changes an event.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from recsys.seeds import derive, uniforms_at

TRUTH = "truth.json"
START_UNIX_S, DAY_S = 1_704_067_200, 86_400  # 2024-01-01
SHARES = ("follow", "noise", "drift", "trend")


@dataclass(frozen=True)
class Settings:
    """What a world is made from; see the module. Raises `ValueError` naming a setting that cannot be."""

    users: int  # [U]
    items: int  # [I]
    events: int  # [E]
    seed: int = 0
    clusters: int = 0  # [C]; 0: the square root of the items, 8 to 1,000 (and no more than items)
    follow: float = 0.3  # share of events that are the successor of the user's last
    noise: float = 0.1  # share of the others whose cluster is anyone's
    drift: float = 0.5  # share of a user's taste that has gone over to the second cluster at the end
    trend: float = 0.1  # of a cluster's items by which popularity has moved on at the end
    skew: float = 1.0  # Zipf exponent of popularity in a cluster
    flat: float = 10.0  # Mandelbrot's offset, in places: the first few items are nearly alike
    days: int = 365  # from the first event to the last

    def __post_init__(self) -> None:
        for name, least in (("users", 2), ("items", 2), ("events", 1), ("clusters", 0), ("days", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {least} is needed")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.skew < 0 or self.flat <= 0:
            raise ValueError(f"skew is {self.skew} and flat {self.flat}; expected skew ≥ 0 and flat > 0")
        if self.clusters > self.items:
            raise ValueError(f"clusters is {self.clusters}, and there are {self.items} items; each needs one")
        if not self.clusters:
            square = round(self.items**0.5)
            object.__setattr__(self, "clusters", min(self.items, max(8, min(square, 1000))))


@dataclass(frozen=True)
class Events:
    """Some events, in the order of time: users, items (int64, from 0), times (int64, Unix seconds) [n]."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray


@dataclass
class _Last:
    """Each user's last cluster and place [U]; −1: nothing yet."""

    clusters: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, eq=False)
class World:
    """What is planted. Memory: 28 bytes a user and 20 an item."""

    settings: Settings
    sizes: np.ndarray = field(init=False)  # [C] items of each cluster

    def __post_init__(self) -> None:
        s = self.settings
        object.__setattr__(self, "sizes", -(-(s.items - np.arange(s.clusters)) // s.clusters))

    @classmethod
    def open(cls, folder: Path) -> World:
        """The world of a folder that `write_world` wrote. Raises `ValueError` where there is none."""
        if not (folder / TRUTH).exists():
            raise ValueError(f"{folder} has no {TRUTH}; make a world with: python -m serving.bench.worlds")
        return cls(Settings(**json.loads((folder / TRUTH).read_text(encoding="utf-8"))["settings"]))

    def truth(self) -> dict[str, object]:
        return {"settings": asdict(self.settings), "start_unix_s": START_UNIX_S, "formula": __doc__}

    # -- who and what ----------------------------------------------------------------------------------------------

    def _uniform(self, purpose: str, places: np.ndarray) -> np.ndarray:
        return uniforms_at(np.array(derive(self.settings.seed, "worlds", purpose), np.uint64), places)

    @cached_property
    def _item_at(self) -> np.ndarray:
        """[I] int32: the item at place p of cluster c is at p · C + c."""
        return np.argsort(self._uniform("item", np.arange(self.settings.items)), kind="stable").astype(
            np.int32
        )

    @cached_property
    def _position(self) -> np.ndarray:
        found = np.empty(self.settings.items, np.int32)
        found[self._item_at] = np.arange(self.settings.items, dtype=np.int32)
        return found

    def clusters_of(self, items: np.ndarray) -> np.ndarray:
        return self._position[items] % self.settings.clusters

    def places_of(self, items: np.ndarray) -> np.ndarray:
        return self._position[items] // self.settings.clusters

    def item_at(self, clusters: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self._item_at[places * self.settings.clusters + clusters].astype(np.int64)

    def successor(self, items: np.ndarray) -> np.ndarray:
        """The items that come next [n], of the next place of the cluster."""
        clusters = self.clusters_of(items)
        return self.item_at(clusters, (self.places_of(items) + 1) % self.sizes[clusters])

    @cached_property
    def tastes(self) -> np.ndarray:
        """[U, 2] int32: each user's first and second cluster."""
        s = self.settings
        among = np.cumsum((np.arange(s.clusters) + 1 + s.clusters / 10) ** -1.0)
        drawn = [self._uniform(which, np.arange(s.users)) for which in ("first taste", "second taste")]
        found = [np.searchsorted(among, one * among[-1], side="right") for one in drawn]
        return np.stack(found, 1).clip(max=s.clusters - 1).astype(np.int32)

    @cached_property
    def activity(self) -> np.ndarray:
        """[U] float64: each user's share of the events."""
        s = self.settings
        weights = np.empty(s.users)
        weights[self._user_at] = (np.arange(s.users) + 1 + s.users / 20) ** -1.0
        return weights / weights.sum()

    @cached_property
    def _user_at(self) -> np.ndarray:
        return np.argsort(self._uniform("user", np.arange(self.settings.users)), kind="stable")

    @cached_property
    def _active(self) -> np.ndarray:
        return np.cumsum(self.activity)

    @cached_property
    def _popular(self) -> np.ndarray:
        """Cumulative weights of the ranks, of the largest cluster [n]; a smaller one's are the first of them."""
        ranks = np.arange(int(self.sizes.max()))
        return np.cumsum((ranks + self.settings.flat) ** -self.settings.skew)

    # -- the truth -------------------------------------------------------------------------------------------------

    def share_of_time(self, times: np.ndarray) -> np.ndarray:
        return (np.asarray(times) - START_UNIX_S) / (self.settings.days * DAY_S)

    def next_item(self, user: int, time: int, last: int | None) -> np.ndarray:
        """p(i | u, t, last) of all items [I]; `last` is None where nothing came before."""
        s, t = self.settings, float(self.share_of_time(np.array(time)))
        clusters = s.noise * self.sizes / s.items  # [C]
        first, second = self.tastes[user]
        clusters[first] += (1 - s.noise) * (1 - s.drift * t)
        clusters[second] += (1 - s.noise) * s.drift * t
        all_items = np.arange(s.items)
        of, places = self.clusters_of(all_items), self.places_of(all_items)
        n = self.sizes[of]
        ranks = (places - np.floor(s.trend * n * t).astype(np.int64)) % n
        found = clusters[of] * (ranks + s.flat) ** -s.skew / self._popular[n - 1]
        if last is not None:
            found *= 1 - s.follow
            found[self.successor(np.array([last]))[0]] += s.follow
        return found

    # -- the events ------------------------------------------------------------------------------------------------

    def nothing_yet(self) -> _Last:
        none = np.full(self.settings.users, -1, np.int32)
        return _Last(none, none.copy())

    def events(self, start: int, stop: int, last: _Last) -> Events:
        """Events `start` to `stop`; `last` is what was before them, and becomes what is after."""
        s = self.settings
        numbers = np.arange(start, stop)
        times = START_UNIX_S + numbers * (s.days * DAY_S) // s.events
        t = self.share_of_time(times)
        users = self._user_at[
            np.searchsorted(
                self._active, self._uniform("who", numbers) * self._active[-1], side="right"
            ).clip(max=s.users - 1)
        ]
        clusters = self._clusters(users, t, numbers)
        n = self.sizes[clusters]
        ranks = np.searchsorted(
            self._popular, self._uniform("which", numbers) * self._popular[n - 1], side="right"
        )
        places = (np.minimum(ranks, n - 1) + np.floor(s.trend * n * t).astype(np.int64)) % n
        follows = self._uniform("follow", numbers) < s.follow
        clusters, places = self._walked(users, clusters, places, follows, last)
        return Events(users, self.item_at(clusters, places), times)

    def _clusters(self, users: np.ndarray, t: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        s = self.settings
        draw = self._uniform("whose", numbers)
        later = (draw - s.noise) < (1 - s.noise) * s.drift * t
        anyones = (self._uniform("anyone", numbers) * s.items).astype(np.int64) % s.clusters
        mine = self.tastes[users, later.astype(np.int64)]
        return np.where(draw < s.noise, anyones, mine)

    def _walked(
        self, users: np.ndarray, clusters: np.ndarray, places: np.ndarray, follows: np.ndarray, last: _Last
    ) -> tuple[np.ndarray, np.ndarray]:
        """Clusters and places [n] where those events that follow are as many places on from the last that does not."""
        order = np.argsort(users, kind="stable")
        users, clusters, places, follows = users[order], clusters[order], places[order], follows[order]
        begins = np.ones(len(users), bool)
        begins[1:] = users[1:] != users[:-1]
        known = last.clusters[users] >= 0
        on = begins & follows & known  # the first here of somebody who was here before
        clusters = np.where(on, last.clusters[users], clusters)
        places = np.where(on, (last.places[users] + 1) % self.sizes[clusters], places)
        anchors = np.maximum.accumulate(np.where(begins | ~follows, np.arange(len(users)), 0))
        clusters = clusters[anchors]
        places = (places[anchors] + np.arange(len(users)) - anchors) % self.sizes[clusters]
        ends = np.append(begins[1:], True)
        last.clusters[users[ends]], last.places[users[ends]] = clusters[ends], places[ends]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return clusters[back], places[back]
