"""Ids that callers name, met with those that a run knows: by one rule for what an id is, and one for what is unknown.

An id is what `recsys.door.values.one_id` makes of it (7, "7", 7.0 and the decimal 7 are one), and nothing where it is a spelling of
nothing. An id that the run does not know is no error: stock lists and feedback are newer than a run, or older. It is left out, counted,
and said in the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from recsys.data.catalogue import Catalogue
from recsys.door.values import one_id, shortly
from serving.answering.limits import wrong_length


class KnowsUsers(Protocol):
    """A run's users (`Dataset`), or those and all that came since (`LiveHistories`)."""

    def user_index(self, user_id: str) -> int | None: ...


@dataclass(frozen=True)
class Counted:
    """How often something was met, and the first of it."""

    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.count:,} (the first: {self.first})"


@dataclass(frozen=True, eq=False)
class KnownItems:
    """A list of item ids as the run knows it: `numbers` [k] in the list's order, and of `given` ids how many are unknown.

    Blank ids are nothing, and not counted.
    """

    numbers: np.ndarray
    given: int
    unknown: int
    first_unknown: str | None

    @cached_property
    def unique(self) -> np.ndarray:
        """The items, ascending and each once: one array for all requests that share the list, which nobody may write to."""
        found = np.unique(self.numbers)
        found.flags.writeable = False
        return found

    def holds(self, items: np.ndarray) -> np.ndarray:
        """Bool, the shape of `items`: which of them are in the list? By binary search."""
        if not len(self.unique):
            return np.zeros(np.shape(items), bool)
        at = np.searchsorted(self.unique, items).clip(max=len(self.unique) - 1)
        return self.unique[at] == items

    @property
    def ignored(self) -> Counted | None:
        return None if self.first_unknown is None else Counted(self.unknown, repr(self.first_unknown))


def known_items(catalogue: Catalogue, ids: Iterable[Any] | KnownItems | None, what: str) -> KnownItems:
    """The items of a list. `what` names the list in messages.

    Raises `ValueError` for what is no list, a list that is too long, and an element that is no id, by its place.
    """
    if isinstance(ids, KnownItems):
        return ids
    if ids is None:
        return KnownItems(np.zeros(0, np.int64), 0, 0, None)
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        kind = (
            "text"
            if isinstance(ids, str | bytes)
            else "mapping"
            if isinstance(ids, Mapping)
            else type(ids).__name__
        )
        raise ValueError(
            f"{what} is the {kind} {shortly(ids)}; expected a list of item ids, such as ['7', '12']"
        )
    if what == "history" and isinstance(ids, Set):
        raise ValueError("history is a set, which has no order; expected a list of item ids, oldest first")
    as_python = getattr(ids, "to_pylist", None)  # Arrow's arrays
    listed = list(ids) if as_python is None else as_python()
    if (wrong := wrong_length(len(listed))) is not None:
        raise ValueError(f"{what} has {len(listed):,} ids; {wrong}")
    numbers: list[int] = []
    given, unknown, first = 0, 0, None
    for place, value in enumerate(listed):
        number = catalogue.number(value) if isinstance(value, str) else None
        if number is None:  # most ids are written as the run writes them
            item_id = checked_id(value, f"{what}[{place}]")
            if item_id is None:
                continue
            number = catalogue.number(item_id)
            if number is None:
                given, unknown, first = given + 1, unknown + 1, item_id if first is None else first
                continue
        given += 1
        numbers.append(number)
    return KnownItems(np.array(numbers, dtype=np.int64), given, unknown, first)


def known_user(users: KnowsUsers, user_id: Any) -> tuple[str, int] | None:
    """A user's id as the run writes it, and the integer; None for nobody, and for a user whom the run does not know.

    Raises `ValueError` for what is no id.
    """
    for name in (user_id if isinstance(user_id, str) else None, checked_id(user_id, "user_id")):
        number = None if name is None else users.user_index(name)
        if name is not None and number is not None:
            return name, number
    return None


def checked_id(value: Any, what: str) -> str | None:
    """`one_id`; the `ValueError` says where."""
    try:
        return one_id(value)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
