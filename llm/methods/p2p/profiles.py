"""Profiles in words, and their vectors by a frozen encoder: what P2P's hypernetwork reads of a user.

    p = [summary ‖ the k records that fit the query best]                                   (P2P, section 3.1)

Unlike a context in the prompt (`llm.prompts.contexts`), a profile may tell of everything strictly before the
request's time, the items that the prompt shows included: no target is there. Records are looked for with
BM25, by the request's own words in its whole history; a request without words is taken to ask for what is
like the items shown, and those are then no answer.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from llm.prompts.builder import PromptBuilder
from llm.prompts.contexts import RecordSearch, Summaries
from recsys.data.dataset import Dataset
from recsys.progress import Progress
from recsys.recommender import EMPTY, Request
from recsys.seeds import rng
from recsys.training import distributed

Kind = Literal["summary_and_records", "summary_only", "retrieved_only", "full_history", "random", "shuffled"]
Encode = Callable[[Sequence[str]], np.ndarray]  # texts -> [n, d] float32

CHUNK = 2048  # profiles that a kill may cost


@dataclass
class ProfileText:
    """Writes the profile of a request.

    summary_and_records   the summary and k records (k = 0: summary_only)
    summary_only          frequent column values and last titles (`PromptBuilder.profile`), or a given summary
    retrieved_only        k records
    full_history          the most recent records; the encoder's cut leaves the oldest out
    random                summary_and_records of another user, as of the same moment
    shuffled              the words of summary_and_records in a random order
    """

    kind: Kind
    k: int
    builder: PromptBuilder
    search: RecordSearch | None  # needed where there are records
    dataset: Dataset  # where `random` finds another user
    summaries: Summaries | None = None
    longest: int = 128  # records of full_history

    def text(self, request: Request) -> str | None:
        """The profile; None where there is nothing before the request."""
        if self.kind == "random":
            return self._whole(request, *self._another(request))
        if self.kind == "full_history":
            return self._listed(request.history[::-1][: self.longest]) or None
        if self.kind == "retrieved_only":
            return self._records(request, request.history) or None
        whole = self._whole(request, request.user, request.history)
        if self.kind == "shuffled" and whole:
            words = np.array(whole.split(), dtype=object)
            return " ".join(rng(0, "shuffled profile", whole).permutation(words))
        return whole

    def key(self, request: Request) -> bytes:
        """What the text is made of, in 16 bytes; summary_only does not depend on the query,
        nor on the time.
        """
        parts: list[object] = [np.ascontiguousarray(request.history, dtype=np.int64).tobytes()]
        if self.summaries is not None:
            parts.append(self.summaries.at(request.user, request.time))
        if self.kind == "random":
            parts += [request.user, request.time]
        if self.kind not in ("summary_only", "full_history"):
            parts.append(" ".join((request.query or "").split()))
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()

    def _whole(self, request: Request, user: int | None, history: np.ndarray) -> str | None:
        given = self.summaries.at(user, request.time) if self.summaries is not None else None
        summary = given or self.builder.profile(history)
        records = "" if self.kind == "summary_only" else self._records(request, history)
        return " ".join(part for part in (summary, records) if part) or None

    def _records(self, request: Request, history: np.ndarray) -> str:
        if not self.k or self.search is None:
            return ""
        recent = self.builder.config.recent_items
        asks = bool(request.query and request.query.strip())
        pool = history if asks else history[: max(0, len(history) - recent)]
        query = self.search.query(request, request.history[-recent:])
        return self._listed(pool[self.search.best(query, pool, self.k)])

    def _listed(self, items: np.ndarray) -> str:
        return "; ".join(self._record(int(item)) for item in items)

    def _record(self, item: int) -> str:
        """`title (value, value)`."""
        catalogue = self.builder.catalogue
        values = [value for column in catalogue.columns.values() for value in column[item]]
        return catalogue.titles[item] + (f" ({', '.join(values)})" if values else "")

    def _another(self, request: Request) -> tuple[int | None, np.ndarray]:
        """Another user with a past at that moment, and that past;
        the same one whenever the request is made.
        """
        draws = rng(0, "another's profile", -1 if request.user is None else request.user, request.time)
        for user in draws.integers(0, self.dataset.n_users, 50).tolist():
            history, _ = self.dataset.before(user, request.time)
            if user != request.user and len(history):
                return user, history
        return None, EMPTY


class ProfileVectors:
    """Vectors of profiles [R, d] (float32), and which requests have one.

    What was encoded is kept: training's and validation's profiles for good, on disk (`prepare`); any other in
    memory, the least recently used one first to go when they take more than `budget` bytes.
    """

    def __init__(self, maker: ProfileText, encode: Encode, dim: int, budget: int):
        self.maker, self.encode, self.dim = maker, encode, dim
        self._at_most = max(1, budget // (4 * dim + 128))  # a key and a dict's share beside the vector
        self._kept: OrderedDict[bytes, torch.Tensor | None] = OrderedDict()
        self._files: list[torch.Tensor] = []  # memory-mapped, CHUNK rows at most
        self._row: dict[bytes, int] = {}  # key -> CHUNK · file + row in it
        self.encoded = 0  # profiles so far
        # mean [d] and root mean square about it: what the hypernetwork takes off and divides by
        self.moments = torch.zeros(dim), torch.ones(())

    def vectors(self, requests: Sequence[Request]) -> tuple[torch.Tensor, torch.Tensor]:
        """[R, d], and [R] bool: False (and zeros) for a request without anything before it."""
        keys = [self.maker.key(request) for request in requests]
        found = {key: self._prepared(row) for key in keys if (row := self._row.get(key)) is not None}
        missing: dict[bytes, str] = {}
        for key, request in zip(keys, requests, strict=True):
            if key in found or key in missing:
                continue
            if key in self._kept:
                self._kept.move_to_end(key)
                if (vector := self._kept[key]) is not None:
                    found[key] = vector
            elif (text := self.maker.text(request)) is not None:
                missing[key] = text
            else:
                self._keep(key, None)
        if missing:
            made = torch.from_numpy(self.encode(list(missing.values())))
            self.encoded += len(made)
            for key, vector in zip(missing, made, strict=True):
                found[key] = vector
                self._keep(key, vector)
        nothing = torch.zeros(self.dim)
        rows = [found.get(key, nothing) for key in keys]
        known = torch.tensor([key in found for key in keys], dtype=torch.bool)
        return (torch.stack(rows) if rows else torch.zeros(0, self.dim)), known

    def prepare(self, requests: Sequence[Request], folder: Path, label: str) -> None:
        """Encode the profiles of these requests once, `CHUNK` at a time, into files of `folder`; a killed
        call goes on where it was, and a later one only reads. Processes take turns: `folder` is one and the
        same for all.
        """
        folder.mkdir(parents=True, exist_ok=True)
        chunks = {
            folder / f"profiles-{start}.safetensors": requests[start : start + CHUNK]
            for start in range(0, len(requests), CHUNK)
        }
        quiet = not distributed.is_main()
        bar = Progress(total=len(requests), desc=label, unit="profile", disable=quiet, mininterval=1.0)
        for turn, (path, some) in enumerate(chunks.items()):
            if turn % distributed.processes() == distributed.number() and not path.exists():
                self._write(path, some)
            bar.update(len(some))
        bar.close()
        distributed.wait()
        for path in chunks:
            held = load_file(path)
            first = CHUNK * len(self._files)
            self._files.append(held["vectors"])
            self._row |= {key.tobytes(): first + row for row, key in enumerate(held["keys"].numpy())}

    def take_moments(self, requests: Sequence[Request]) -> None:
        """Set `moments` from the profiles of these requests; unchanged where none has any."""
        count, total, squares = 0, torch.zeros(self.dim).double(), torch.zeros(self.dim).double()
        for start in range(0, len(requests), CHUNK):
            vectors, known = self.vectors(requests[start : start + CHUNK])
            some = vectors[known].double()
            count, total, squares = count + len(some), total + some.sum(0), squares + some.square().sum(0)
        if count:
            mean = total / count
            spread = (squares / count - mean.square()).mean().clamp(min=1e-12).sqrt()
            self.moments = mean.float(), spread.float()

    def _prepared(self, row: int) -> torch.Tensor:
        return self._files[row // CHUNK][row % CHUNK]

    def _write(self, path: Path, requests: Sequence[Request]) -> None:
        texts = {self.maker.key(request): self.maker.text(request) for request in requests}
        known = {key: text for key, text in texts.items() if text is not None}
        self.encoded += len(known)
        vectors = self.encode(list(known.values())) if known else np.zeros((0, self.dim), np.float32)
        keys = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 16).copy()
        temporary = path.with_name(f".{path.name}.tmp")
        save_file({"keys": torch.from_numpy(keys), "vectors": torch.from_numpy(vectors)}, str(temporary))
        temporary.replace(path)

    def forget(self) -> None:
        """Drop what is kept in memory."""
        self._kept.clear()

    def _keep(self, key: bytes, vector: torch.Tensor | None) -> None:
        self._kept[key] = vector
        while len(self._kept) > self._at_most:
            self._kept.popitem(last=False)
