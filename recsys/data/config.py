"""The settings of stage `prepare`: what to read, what to leave out, how to split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from recsys.config import StageConfig
from recsys.door.clocks import Reading

K_CORE_ITEMS = {
    "ml-latest-small": 5,
    "lastfm": 5,
    "amazon": 1,
}  # users; amazon is 5-core already

EMBEDDED = Path(__file__).parent / "ml-latest-small"  # the copy of MovieLens that ships with Prelude
FILES = {  # of a known data set, in its folder
    "ml-latest-small": {"interactions": "ratings.csv", "items": "movies.csv", "queries": "tags.csv"},
    "amazon": {"interactions": "user_sequence.txt", "items": "items.jsonl"},
    "lastfm": {"interactions": "user_taggedartists.dat", "items": "artists.dat", "tags": "tags.dat"},
}

Repeats = Literal["keep", "first", "last"]
UnknownItems = Literal["error", "drop", "keep"]
# of a kind of event: for, with this weight; or one of these
Meaning = float | Literal["against", "context", "drop"]


class SplitConfig(StageConfig):
    """How events are divided by time. No event is later than one of a later role of the same user.

    (An UNUSED event is part of histories and of nothing else, so it may stand anywhere.)
    """

    # last_fraction: the last part of each user's events, several test instances a user (most power a user).
    # leave_last_out: the last event is the test, the one before it validation (comparison with papers).
    # global_time: one moment for all users, as in production; only here nobody's future is learned.
    kind: Literal["last_fraction", "leave_last_out", "global_time"] = "last_fraction"
    # share of a user's events (global_time: of all events)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)  # share, taken just before the test part
    # events; a few heavy users would otherwise be most of the test
    max_test_per_user: int = Field(default=20, ge=1)
    cutoff_validation_unix_s: int | None = None  # global_time: start of validation; None: by the fractions
    cutoff_test_unix_s: int | None = None  # global_time: start of test; None: by the fractions
    # Share of the training events, the latest, kept from Stage 1 for Stage 2 (which must train on what Stage
    # 1 and the graph have not fitted): of each user's events; for global_time, of all.
    personalize_fraction: float = Field(default=0.3, ge=0, lt=1)
    # … or, by `users`, all training events of that share of the users, drawn at random: Stage 1 then has
    # everybody else's histories up to their end, which short ones (Amazon: seven events a user) cannot spare.
    personalize_by: Literal["events", "users"] = "events"
    seed: int = 0  # of that draw

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.test_fraction + self.validation_fraction >= 1:
            raise ValueError(
                f"test_fraction {self.test_fraction} + validation_fraction {self.validation_fraction} leaves "
                f"nothing to learn from; their sum must be below 1"
            )
        cutoffs = (self.cutoff_validation_unix_s, self.cutoff_test_unix_s)
        if cutoffs != (None, None) and self.kind != "global_time":
            raise ValueError(f"cutoffs belong to kind: global_time, not to {self.kind}")
        if self.personalize_by == "users" and self.kind == "global_time":
            raise ValueError("personalize_by: users needs splits by user; global_time has one clock for all")
        if (cutoffs[0] is None) != (cutoffs[1] is None):
            raise ValueError("give both cutoff_validation_unix_s and cutoff_test_unix_s, or neither")
        if cutoffs[0] is not None and cutoffs[1] is not None and cutoffs[0] > cutoffs[1]:
            raise ValueError(
                f"cutoff_validation_unix_s {cutoffs[0]} is later than cutoff_test_unix_s {cutoffs[1]}"
            )
        return self


class UserSplitConfig(StageConfig):
    """Which share of the users is held out from all learning. Off unless a share is given."""

    # share of all users, sampled in proportion to the clusters
    random: float = Field(default=0.0, ge=0, lt=1)
    ood: float = Field(default=0.0, ge=0, lt=1)  # share of all users: small isolated clusters as a whole
    # clusters of users; the more there are, the smaller and the stranger the out-of-distribution ones
    clusters: int = Field(default=25, ge=2)
    seed: int = 0  # of the clustering and of the random part
    text_encoder: str = "minilm"  # minilm, or a folder: what embeds the profile texts
    profile_values: int = Field(default=5, ge=0)  # most frequent values of each text column in a profile text
    profile_titles: int = Field(default=6, ge=0)  # titles of the last items in a profile text

    @property
    def is_on(self) -> bool:
        return self.random > 0 or self.ood > 0

    @model_validator(mode="after")
    def _somebody_is_left(self) -> UserSplitConfig:
        if self.random + self.ood >= 1:
            raise ValueError(
                f"random {self.random} + ood {self.ood} leaves no user to learn from; their sum must be below 1"
            )
        if self.profile_values + self.profile_titles == 0:
            raise ValueError("profile_values and profile_titles are both 0, and a profile text needs words")
        return self


class PrepareConfig(StageConfig):
    """What to read, what to leave out, and how to split it."""

    # who knows the format
    source: Literal["ml-latest-small", "amazon", "lastfm", "files"] = "ml-latest-small"
    path: Path | None = None  # folder of a known data set; None: the MovieLens copy that ships with Prelude
    # source files: whatever recsys.door.sources reads: text, packed or not, Parquet, Arrow, RecBole's files, or a folder of parts
    interactions: Path | None = None
    items: Path | None = None  # source files: optional, so that items have titles and text
    queries: Path | None = None  # source files: optional, what users asked for and found
    # Our column name → yours, e.g. {user_id: uid}. `items.item_id: sku` speaks of the items file alone.
    columns: dict[str, str] = Field(default_factory=dict)
    text_columns: list[str] | None = None  # columns that describe an item; None: all that are not numbers
    # How timestamps are read; auto: typed stamps, ISO texts, dates, and numbers that can be of one unit only. An order: ordinal.
    time: Reading = "auto"
    missing_ids: Literal["error", "drop"] = (
        "error"  # rows without a user or an item (blank, NA, \\N, nil …): refuse, or leave out
    )
    # Share of the interactions' items that the items file must describe (ids of another form match nothing, and every title is lost)
    min_known_items: float = Field(default=0.5, ge=0, le=1)
    # Share of the queries whose user, and whose item, must be known
    min_known_queries: float = Field(default=0.5, ge=0, le=1)
    # What each kind in the `event` column means: a weight (for), against (never a positive, nor in histories), context (in histories
    # alone) or drop. None: all are for, with weight 1.
    events: dict[str, Meaning] | None = None
    # Largest share of the training events that one user may be (or ten times an even share, where that is more): what is above it is
    # part of histories and of nothing else, drawn by seed. A crawler, or a missing id that nobody saw, is not everybody's taste.
    user_cap: float = Field(default=0.05, gt=0, le=1)
    warn_tied_share: float = Field(
        default=0.2, ge=0, le=1
    )  # of test events that share their moment: above it, prepare warns
    min_rating: float | None = (
        None  # stars or the like; None: every rating is an interaction, as in the sketch
    )
    keep_events: list[str] | None = None  # kinds in the `event` column that count; None: all
    # a (user, item) pair at several times: listening repeats, and time tells
    repeats: Repeats = "keep"
    unknown_items: UnknownItems = "keep"  # items that the items file lacks: keep calls them by id
    k_core_users: int = Field(default=1, ge=0)  # distinct items a user needs; 0 or 1: any
    # Distinct users an item needs: one that few have touched has no collaborative vector worth its name. The default is 5 for
    # ml-latest-small and lastfm, 1 (any that occurs) for amazon, and 0 for files: items that nobody has had stay, with IDs of their text.
    k_core_items: int = Field(default=0, ge=0)
    # Share of query texts that no training reads, so that answers to them show what is understood (recsys.data.phrases)
    held_out_queries: float = Field(default=0.1, ge=0, lt=1)
    # May what a user has had be recommended again? One answer for training, validation, test and serving.
    exclude_seen: bool = True
    # Is what a user has turned down (`events`: against) kept from what is recommended to them from then on? One answer as well.
    exclude_against: bool = True
    split: SplitConfig = SplitConfig()
    # Users held out from all learning, at random or out of distribution; off by default.
    user_split: UserSplitConfig = UserSplitConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_core(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "k_core_items" not in values:
            source = values.get("source", "ml-latest-small")
            values = {**values, "k_core_items": K_CORE_ITEMS.get(source, 0) if isinstance(source, str) else 0}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> PrepareConfig:
        own = [name for name in ("interactions", "items", "queries", "columns") if getattr(self, name)]
        if self.source == "files":
            if self.interactions is None:
                raise ValueError("source: files needs interactions: the path of a file")
            if self.path is not None:
                raise ValueError(
                    "source: files takes interactions, items and queries; path is for known data sets"
                )
        elif own:
            raise ValueError(f"{own[0]} belongs to source: files, not to {self.source}")
        elif self.source != "ml-latest-small" and self.path is None:
            raise ValueError(f"source: {self.source} needs path: the folder that holds {self._file_names()}")
        if self.source == "amazon" and self.split.kind == "global_time":
            raise ValueError(
                "amazon has order but no time; split.kind must be leave_last_out or last_fraction"
            )
        return self

    @model_validator(mode="after")
    def _columns_are_read(self) -> PrepareConfig:
        texts = tuple(self.text_columns or ())
        if {"item_id", "title"} & set(texts):
            raise ValueError("text_columns are columns beside item_id and title; leave these two out")
        if self.source == "files" and texts and self.items is None:
            raise ValueError("text_columns are columns of the items file; give items too")
        read = {
            "interactions": (
                self.interactions,
                ("user_id", "item_id", "timestamp", "rating", "weight", "event"),
            ),
            "items": (self.items, ("item_id", "title", *texts)),
            "queries": (self.queries, ("user_id", "item_id", "timestamp", "query")),
        }
        for key in self.columns:
            kind, _, name = key.rpartition(".")
            if not any(name in names for file, (_, names) in read.items() if kind in ("", file)):
                ours = ", ".join(dict.fromkeys(name for _, names in read.values() for name in names))
                raise ValueError(f"columns maps '{key}', which is none of ours: {ours}")
            if not any(path and name in names for file, (path, names) in read.items() if kind in ("", file)):
                raise ValueError(f"columns maps '{key}', but no file is given that would have it")
        return self

    def _file_names(self) -> str:
        return ", ".join(FILES[self.source].values())

    def files(self) -> dict[str, Path]:
        """The files that are read, by what they are."""
        if self.source == "files":
            given = {"interactions": self.interactions, "items": self.items, "queries": self.queries}
            return {name: path for name, path in given.items() if path is not None}
        folder = self.path or EMBEDDED
        return {name: folder / file for name, file in FILES[self.source].items()}
