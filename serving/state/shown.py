"""Lists that were shown, each with what was asked and the exact probability that every item was drawn with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from serving.state.events import SOME
from serving.state.store import State
from serving.state.tables import events, shown


@dataclass(frozen=True)
class ShownItem:
    """`probability` given the items before it; None where nothing was drawn."""

    item_id: str
    score: float
    probability: float | None


@dataclass(frozen=True)
class ShownList:
    """A list that somebody got. `asked` is what it was asked with (`serving.service.forms.Asked`), enough to ask it again."""

    id: str
    user_id: str | None
    made: float
    arm: str | None
    method: str
    path: str
    asked: dict[str, Any]
    items: list[ShownItem]


def keep(connection: sa.Connection, lists: Sequence[ShownList]) -> None:
    """Keep lists."""
    connection.execute(sa.insert(shown), [_row(one) for one in lists])


def find(state: State, id_: str) -> ShownList | None:
    """A list by its id."""
    with state.reading() as connection:
        row = connection.execute(sa.select(shown).where(shown.c.id == id_)).first()
    return None if row is None else _list(row)


def shown_to(connection: sa.Connection, user_id: str) -> list[ShownList]:
    """What somebody was shown, in order."""
    query = sa.select(shown).where(shown.c.user_id == user_id).order_by(shown.c.made)
    return [_list(row) for row in connection.execute(query)]


def with_events(
    state: State, since: float = 0.0, until: float = 1e18
) -> Iterator[tuple[ShownList, dict[str, set[str]]]]:
    """Lists made within a time, in order, each with the types of events that name it, by item."""
    place: tuple[float, str] = (since, "")
    while True:
        after = sa.or_(shown.c.made > place[0], sa.and_(shown.c.made == place[0], shown.c.id > place[1]))
        query = sa.select(shown).where(after, shown.c.made < until).order_by(shown.c.made, shown.c.id)
        with state.reading() as connection:
            some = [_list(row) for row in connection.execute(query.limit(SOME))]
            found: dict[str, dict[str, set[str]]] = {one.id: {} for one in some}
            named = sa.select(events.c.recommendation_id, events.c.item_id, events.c.type)
            for id_, item, kind in connection.execute(
                named.where(events.c.recommendation_id.in_(list(found)))
            ):
                found[id_].setdefault(item, set()).add(kind)
        yield from ((one, found[one.id]) for one in some)
        if len(some) < SOME:
            return
        place = some[-1].made, some[-1].id


def _row(one: ShownList) -> dict[str, Any]:
    items = [[item.item_id, item.score, item.probability] for item in one.items]
    return {
        **{name: getattr(one, name) for name in ("id", "user_id", "made", "arm", "method", "path")},
        "asked": json.dumps(one.asked, ensure_ascii=False),
        "items": json.dumps(items, ensure_ascii=False),
    }


def _list(row: Any) -> ShownList:
    values = dict(row._mapping)
    items = [ShownItem(*item) for item in json.loads(values.pop("items"))]
    return ShownList(items=items, asked=json.loads(values.pop("asked")), **values)
