"""The table item → semantic ID, and the policy that makes the IDs unique.

The width (levels, sizes) is recorded here once; everything later reads it from the table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from semantic_ids.config import Policy
from semantic_ids.quantizer import residual_codes, sum_of_codes
from semantic_ids.trie import Trie

FORMAT = 1


class SemanticIdTable:
    """One distinct code tuple an item: `codes` [N, L] int64, `codes[i, l]` in `[0, sizes[l])`.

    Items from `n_base` on were added later by their text; they leave `content_hash` as it is, because what
    was trained on the first `n_base` still holds. Raises `ValueError` for codes out of range or shared.
    """

    def __init__(self, codes: np.ndarray, sizes: Sequence[int], n_base: int | None = None):
        self.codes = np.ascontiguousarray(codes, dtype=np.int64)
        self.sizes: tuple[int, ...] = tuple(int(size) for size in sizes)
        self.n_base = len(self.codes) if n_base is None else n_base
        self.trie = Trie(self.codes, self.sizes)  # validates

    @property
    def n_items(self) -> int:
        return len(self.codes)

    @property
    def n_levels(self) -> int:
        return len(self.sizes)

    def codes_of(self, items: np.ndarray | Sequence[int] | int) -> np.ndarray:
        """Codes [n, L] of items [n], or [L] of one item; `ValueError` for an unknown item."""
        wanted = np.asarray(items, dtype=np.int64)
        wrong = wanted[(wanted < 0) | (wanted >= self.n_items)]
        if wrong.size:
            raise ValueError(
                f"item {wrong.flat[0]} is not in the table, which holds items 0..{self.n_items - 1}"
            )
        return self.codes[wanted]

    def lookup(self, codes: Sequence[int]) -> int:
        """The item with these L codes; `UnknownPrefix` (a `KeyError`) that names them if no item has them."""
        if len(codes) != self.n_levels:
            raise ValueError(f"a semantic ID here has {self.n_levels} codes, got {tuple(codes)}")
        return int(self.trie.leaf_item[self.trie.find(codes)])

    def content_hash(self) -> str:
        """Hex sha256 of the sizes and the base items' codes: what a prefix was trained against."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256(json.dumps([FORMAT, self.sizes, self.n_base]).encode())
        digest.update(self.codes[: self.n_base].astype("<i8").tobytes())
        return digest.hexdigest()

    def all_hash(self) -> str:
        """Hex sha256 of the sizes and all items' codes, those of later ones too: which version of a table this is."""
        return SemanticIdTable(self.codes, self.sizes).content_hash()

    def extended(self, codes: np.ndarray) -> SemanticIdTable:
        """This table with items appended at its end; the sizes and the content hash stay."""
        return SemanticIdTable(np.concatenate([self.codes, codes]), self.sizes, self.n_base)

    def save(self, folder: Path) -> None:
        """Write `semantic_ids.safetensors` and `semantic_ids.json` into `folder`."""
        save_file({"codes": self.codes}, folder / "semantic_ids.safetensors")
        (folder / "semantic_ids.json").write_text(self.facts_text(), encoding="utf-8")

    def facts_text(self) -> str:
        """What `semantic_ids.json` holds."""
        facts = {
            "format": FORMAT,
            "n_items": self.n_items,
            "n_base": self.n_base,
            "sizes": list(self.sizes),
            "content_hash": self.content_hash(),
        }
        return json.dumps(facts, indent=1)

    @classmethod
    def load(cls, folder: Path) -> SemanticIdTable:
        """Read what `save` wrote; raises `ValueError` when the two files do not belong together."""
        facts = json.loads((folder / "semantic_ids.json").read_text(encoding="utf-8"))
        if facts.get("format") != FORMAT:
            raise ValueError(
                f"{folder}: semantic IDs of format {facts.get('format')}, this Prelude reads {FORMAT}"
            )
        table = cls(load_file(folder / "semantic_ids.safetensors")["codes"], facts["sizes"], facts["n_base"])
        if table.content_hash() != facts["content_hash"]:
            raise ValueError(
                f"{folder}: semantic_ids.safetensors does not match semantic_ids.json; run tokenize again"
            )
        return table


# -- making codes unique --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unique:
    """Unique codes [N, L'], the sizes of their levels, and which items [N] (bool) had to move."""

    codes: np.ndarray
    sizes: tuple[int, ...]
    moved: np.ndarray


def make_unique(
    codes: np.ndarray,
    sizes: Sequence[int],
    latent: Tensor,
    codebooks: Sequence[Tensor],
    policy: Policy = "reassign",
) -> Unique:
    """Make `codes` [N, L] of `latent` [N, d] under `codebooks` unique. Deterministic.

    In a group of items with the same codes the one best represented (smallest ‖z − ẑ‖, then lowest item)
    keeps them. "reassign": each other one, best represented first, takes the nearest free code of the last
    level, or where that level is full the nearest free pair of the last two levels, and so on upwards.
    "extra_level": one more code 0, 1, 2, … in the order of representation (TIGER, arXiv 2305.05065, section
    3.1). Raises `ValueError` when "reassign" has fewer IDs than items.
    """
    sizes = tuple(sizes)
    error = (latent - sum_of_codes(_tensor(codes), codebooks)).square().sum(1).numpy()
    rank = _rank_in_group(codes, error)
    if policy == "extra_level":
        extra = np.concatenate([codes, rank[:, None]], axis=1)
        return Unique(extra, (*sizes, int(rank.max()) + 1), rank > 0)
    check_capacity(sizes, len(codes))
    result, movers = codes.copy(), np.flatnonzero(rank)
    movers = movers[np.lexsort((movers, error[movers]))]
    result[movers] = _settle(codes[movers], latent[_tensor(movers)], codebooks, codes[rank == 0], sizes)
    return Unique(result, sizes, rank > 0)


def place_new(table: SemanticIdTable, latent: Tensor, codebooks: Sequence[Tensor]) -> np.ndarray:
    """Codes [n, L] for new items by their `latent` [n, d]: their own where free, else the nearest free.

    Where the table has TIGER's extra level, its codes are all equally near, so the lowest free one is taken.
    Raises `ValueError` when the table has no room for them.
    """
    check_capacity(table.sizes, table.n_items + len(latent))
    books = list(codebooks)
    books += [books[0].new_zeros(size, latent.shape[1]) for size in table.sizes[len(books) :]]
    return _settle(residual_codes(latent, books).numpy(), latent, books, table.codes, table.sizes)


def check_capacity(sizes: Sequence[int], n_items: int) -> None:
    if math.prod(sizes) < n_items:
        raise ValueError(
            f"levels of sizes {tuple(sizes)} make {math.prod(sizes)} semantic IDs, too few for {n_items} "
            "items; raise tokenize.size or tokenize.levels, or set tokenize.collision to extra_level"
        )


def _rank_in_group(codes: np.ndarray, error: np.ndarray) -> np.ndarray:
    """For each item its place [N], by `error` then item, among those that share its codes."""
    order = np.lexsort((np.arange(len(codes)), error, *codes.T[::-1]))
    new = np.ones(len(codes), dtype=bool)
    new[1:] = (codes[order[1:]] != codes[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(new)
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes)) - starts[np.cumsum(new) - 1]
    return rank


def _settle(
    wanted: np.ndarray, latent: Tensor, codebooks: Sequence[Tensor], taken: np.ndarray, sizes: tuple[int, ...]
) -> np.ndarray:
    """The nearest free codes for each row in turn, given those already `taken`."""
    vectors = latent.double().numpy()
    books = [(book.double().numpy(), book.double().square().sum(1).numpy()) for book in codebooks]
    room = _Room(taken, sizes)
    settled = np.empty_like(wanted)
    in_turn: Iterator[list[int]] | None = None
    for row, (codes, z) in enumerate(zip(wanted, vectors, strict=True)):
        # rows without a vector of their own (items that nobody has had) are alike by the thousand, and one after the other
        again = row > 0 and (codes == wanted[row - 1]).all() and (z == vectors[row - 1]).all()
        in_turn = (in_turn or _in_turn(codes, z, books)) if again else None
        found = next(
            (one for one in in_turn if room.free(one[:-1])[one[-1]])
            if in_turn is not None
            else (one for one in _levels(codes, z, books, room) if one is not None)
        )
        room.take(found)
        settled[row] = found
    return settled


Books = Sequence[tuple[np.ndarray, np.ndarray]]  # of each level the code vectors b, and their ‖b‖²


def _levels(codes: np.ndarray, z: np.ndarray, books: Books, room: _Room) -> Iterator[list[int] | None]:
    """The nearest free codes where one more level at a time is free, from the last upwards; the capacity is checked, so one is there."""
    for kept in range(len(books) - 1, -1, -1):
        prefix = codes[:kept].tolist()
        yield _nearest_free(_rest(z, prefix, books), prefix, books, room)


def _in_turn(codes: np.ndarray, z: np.ndarray, books: Books) -> Iterator[list[int]]:
    """All codes, in the order in which `_levels` would give them to one row alike after the other: what is taken stays taken."""
    for kept in range(len(books) - 1, -1, -1):
        prefix = codes[:kept].tolist()
        yield from _completions(_rest(z, prefix, books), prefix, books)


def _completions(rest: np.ndarray, prefix: list[int], books: Books) -> Iterator[list[int]]:
    """The completions of `prefix`, the nearest first, as `_nearest_free` looks at them."""
    level, last = len(prefix), len(books) - 1
    distance = _distance(rest, books[level])
    if level == last - 1:
        pairs = _pairs(rest, distance, books)
        for place in np.argsort(pairs, axis=None, kind="stable").tolist():
            yield [*prefix, *divmod(place, pairs.shape[1])]
        return
    for code in np.argsort(distance, kind="stable").tolist():
        if level == last:
            yield [*prefix, code]
        else:
            yield from _completions(rest - books[level][0][code], [*prefix, code], books)


def _rest(z: np.ndarray, prefix: list[int], books: Books) -> np.ndarray:
    return z - sum(book[code] for (book, _), code in zip(books, prefix, strict=False))


def _distance(rest: np.ndarray, book: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """‖r − b‖² of each code, without ‖r‖²."""
    return book[1] - 2 * (book[0] @ rest)


def _pairs(rest: np.ndarray, distance: np.ndarray, books: Books) -> np.ndarray:
    """‖r − a − b‖² = ‖r − a‖² − 2 (r − a)·b + ‖b‖², for every pair (a, b) of the last two levels."""
    return distance[:, None] - 2 * (rest - books[-2][0]) @ books[-1][0].T + books[-1][1]


def _nearest_free(rest: np.ndarray, prefix: list[int], books: Books, room: _Room) -> list[int] | None:
    """The nearest free completion of `prefix`: exact over the last two levels, greedy above them.

    Distances leave out ‖r‖², which no choice changes.
    """
    level, last = len(prefix), len(books) - 1
    book, distance = books[level][0], _distance(rest, books[level])
    if level == last:
        free = room.free(prefix)
        best = int(np.where(free, distance, np.inf).argmin())
        return [*prefix, best] if free[best] else None
    if level == last - 1:
        free = np.stack([room.free([*prefix, code]) for code in range(len(book))])
        pairs = _pairs(rest, distance, books)
        first, second = np.unravel_index(np.where(free, pairs, np.inf).argmin(), pairs.shape)
        return [*prefix, int(first), int(second)] if free[first, second] else None
    for code in np.argsort(distance, kind="stable").tolist():
        found = _nearest_free(rest - book[code], [*prefix, code], books, room)
        if found is not None:
            return found
    return None


class _Room:
    """Which codes of the last level are free under each prefix; a row is made when it is first asked for."""

    def __init__(self, taken: np.ndarray, sizes: tuple[int, ...]):
        if math.prod(sizes) >= 2**62:
            raise ValueError(f"sizes {sizes} make more than 2^62 semantic IDs; use fewer or smaller levels")
        self.sizes = sizes
        self.taken = (
            np.sort(np.ravel_multi_index(tuple(taken.T), sizes)) if len(taken) else np.zeros(0, np.int64)
        )
        self.rows: dict[int, np.ndarray] = {}

    def free(self, prefix: Sequence[int]) -> np.ndarray:
        """Bool [sizes[-1]], to be read only."""
        key = 0
        for code, size in zip(prefix, self.sizes, strict=False):
            key = key * size + int(code)
        if key not in self.rows:
            first = key * self.sizes[-1]
            low, high = np.searchsorted(self.taken, (first, first + self.sizes[-1]))
            self.rows[key] = np.ones(self.sizes[-1], dtype=bool)
            self.rows[key][self.taken[low:high] - first] = False
        return self.rows[key]

    def take(self, codes: Sequence[int]) -> None:
        self.free(codes[:-1])[codes[-1]] = False


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
