"""The tables of a state: events, batches of them, people, shown lists, states of users, named lists, keys, and what has changed."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

ID = 200  # characters of an id that a caller gives, at most
VERSION = "v0002"  # of `migrations/versions`: the newest
METADATA = MetaData()
# SQLite numbers rows by its own 64-bit integer, which it calls INTEGER; a number is never given twice, so that who has read
# up to one misses nothing
NUMBER = BigInteger().with_variant(Integer, "sqlite")

# everybody who has an event here: the integer of somebody whom the run does not know, the same in every process
people = Table(
    "people",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("user_id", String(ID), nullable=False, unique=True),
    sqlite_autoincrement=True,
)

# events in the order in which they were taken in; `time` is the run's clock, `received` is Unix seconds
events = Table(
    "events",
    METADATA,
    Column("seq", NUMBER, primary_key=True, autoincrement=True),
    Column("event_id", String(ID), nullable=False, unique=True),
    Column("person", NUMBER, ForeignKey("people.number"), nullable=False),
    Column("item_id", String(ID), nullable=False),
    Column("type", String(20), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("received", Float, nullable=False),
    Column("recommendation_id", String(ID)),
    Index("events_by_person", "person", "seq"),
    Index("events_by_recommendation", "recommendation_id"),
    sqlite_autoincrement=True,
)

# batches that `prelude update` was given, by which one is absorbed once; of one that held an event of somebody who is gone,
# neither id nor hash is left
batches = Table(
    "batches",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(ID), unique=True),
    Column("digest", String(64)),
    Column("made", Float, nullable=False),
    sqlite_autoincrement=True,
)

# whose events a batch held, new or known before
batch_people = Table(
    "batch_people",
    METADATA,
    Column("person", NUMBER, ForeignKey("people.number"), primary_key=True),
    Column("batch", NUMBER, ForeignKey("batches.number"), primary_key=True),
)

# every list that was shown: what was asked (JSON), and items with the probability that each was drawn with, given those before
shown = Table(
    "shown",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("user_id", String(ID), index=True),
    Column("made", Float, nullable=False, index=True),
    Column("arm", String(ID)),
    Column("method", String(ID), nullable=False),
    Column("path", Text, nullable=False),
    Column("asked", Text, nullable=False),
    Column("items", Text, nullable=False),
)

# rows of P_u that events have trained: float32, little-endian; `seq`: the change that one came with, `upto`: the newest event
# there was then. Older rows stay for a while, for jobs that read the state as it was
states = Table(
    "states",
    METADATA,
    Column("user_id", String(ID), primary_key=True),
    Column("method", String(ID), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("upto", BigInteger, nullable=False),
    Column("made", Float, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

# named lists of item ids: JSON, compressed by zlib
lists = Table(
    "lists",
    METADATA,
    Column("name", String(ID), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("made", Float, nullable=False),
    Column("ids", LargeBinary, nullable=False),
)

# keys of callers: the SHA-256 of each, never the key
keys = Table(
    "keys",
    METADATA,
    Column("id", String(20), primary_key=True),
    Column("name", String(ID), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scopes", String(100), nullable=False),
    Column("made", Float, nullable=False),
)

# what every process has to hear of: a list that was swapped, a state that moved, people who are gone, another run
changes = Table(
    "changes",
    METADATA,
    Column("seq", NUMBER, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("name", String(ID), nullable=False),
    sqlite_autoincrement=True,
)
