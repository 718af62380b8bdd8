"""Keys of callers: made, checked by their hash, taken back. A key itself is shown once and kept nowhere."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass

import sqlalchemy as sa

from serving.state.store import State
from serving.state.tables import keys

SCOPES = ("recommend", "events", "admin")
MARK = "prelude"  # what a key begins with, so that a leaked one is recognised


@dataclass(frozen=True)
class Key:
    """Who may do what."""

    id: str
    name: str
    scopes: frozenset[str]
    made: float = 0.0


def make_key(connection: sa.Connection, name: str, scopes: list[str]) -> str:
    """A new key: 256 random bits, of which the hash is kept. Raises `ValueError` for a scope that there is none of."""
    wrong = sorted(set(scopes) - set(SCOPES))
    if wrong or not scopes:
        raise ValueError(f"scopes are {', '.join(SCOPES)}; got {', '.join(wrong) or 'none'}")
    id_ = secrets.token_hex(4)
    key = f"{MARK}_{id_}_{secrets.token_urlsafe(32)}"
    values = {"id": id_, "name": name, "hash": _hash(key), "scopes": " ".join(sorted(set(scopes)))}
    connection.execute(sa.insert(keys).values(made=time.time(), **values))
    return key


def drop_key(connection: sa.Connection, id_: str) -> bool:
    """Take a key back; whether there was one."""
    return bool(connection.execute(sa.delete(keys).where(keys.c.id == id_)).rowcount)


def all_keys(state: State) -> list[Key]:
    """Every key, without itself."""
    with state.reading() as connection:
        query = sa.select(keys.c.id, keys.c.name, keys.c.scopes, keys.c.made).order_by(keys.c.made)
        return [
            Key(id_, name, frozenset(scopes.split()), made)
            for id_, name, scopes, made in connection.execute(query)
        ]


def whose(state: State, key: str) -> Key | None:
    """Whose key it is; None for one that is not known. Found by its hash, so that time tells nothing of it."""
    with state.reading() as connection:
        query = sa.select(keys.c.id, keys.c.name, keys.c.scopes).where(keys.c.hash == _hash(key))
        row = connection.execute(query).first()
    return None if row is None else Key(row.id, row.name, frozenset(row.scopes.split()))


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
