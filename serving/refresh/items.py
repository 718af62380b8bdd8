"""What a version has of its items: their catalogue, their vectors, their codes; rows of those before stay what they are.

An item that is new gets, in this order: a text vector (`embed.text_encoder`), its brought vector where there is one, the vectors that
the run's tables would have for its text (ridge regression, `semantic_ids.new_items`), and codes that nobody has
(`semantic_ids.table.place_new`). Nobody moves: the codes and integers of all others stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from llm.stage1.model import HEAD
from llm.stage1.records import NAME as RECORDS
from llm.stage1.records import TEXT_TOKENS, mean_embedding, open_record_vectors
from recsys.artifacts.paths import RunError
from recsys.data.catalogue import Catalogue
from recsys.data.text_vectors import encode_texts
from recsys.embeddings.embed import load_item_vectors
from recsys.embeddings.retrieval import unit_rows
from recsys.embeddings.sequence_vectors import TABLE
from recsys.run import Run
from semantic_ids.new_items import ContentPath
from semantic_ids.table import SemanticIdTable, place_new
from semantic_ids.tokenizer import load_table, load_tokenizer
from serving.answering.methods import Methods
from serving.config.run import RunConfig
from serving.refresh.changes import Changes
from serving.refresh.folder import Draft

SASRECS = ("sasrec_users", "sasrec_retrieval")
CHUNK = 4096  # items whose records are made at once


@dataclass(frozen=True)
class Coded:
    """What became of the items of a night: the table, vectors of all [N, ·] by name, and what there is to say."""

    table: SemanticIdTable
    vectors: dict[str, np.ndarray]
    again: dict[int, list[int]]  # trained items that were coded anew -> their codes
    facts: dict[str, Any] = field(default_factory=dict)


def code_items(
    draft: Draft,
    config: RunConfig,
    changes: Changes,
    brought: np.ndarray | None,
    again: np.ndarray,
) -> Coded:
    """Vectors and codes of `changes.new`, and of the items `again` [A], which are read anew; written into the draft.

    `brought` [N, d]: today's vectors in the run's space, zero rows where there is none; None: none were brought.
    Raises `RunError` where a new item has nothing to be coded by.
    """
    run, n = draft.parent, len(changes.before)
    before, table, tokenizer = load_item_vectors(run), load_table(run), load_tokenizer(run)
    fresh = np.concatenate([again, changes.new])
    texts = _texts_of(changes.after, fresh) if "text" in before else None
    text = None if texts is None else encode_texts(
        texts, config.embed.text_encoder or "minilm", batches=config.embed.text_batches, keep=True
    )  # fmt: skip
    dim = before["collaborative"].shape[1]
    collaborative = np.zeros((len(changes.after), dim), np.float32)
    collaborative[:n] = before["collaborative"]
    if brought is not None:
        moved = np.abs(brought).sum(1) > 0
        collaborative[moved] = brought[moved]
    has = np.zeros(len(changes.after), bool)
    has[:n] = before["has_collaborative"].astype(bool)
    has |= np.abs(collaborative).sum(1) > 0
    vectors: dict[str, np.ndarray] = {"collaborative": collaborative, "has_collaborative": has}
    if text is not None:
        whole = np.empty((len(changes.after), text.shape[1]), np.float32)
        whole[:n] = before["text"]
        whole[fresh] = text
        vectors["text"] = whole
    inputs = _inputs(run, tokenizer, vectors, fresh)
    if len(fresh):
        latent = tokenizer.quantizer.latent_of(inputs)
        codes = place_new(table, latent, tokenizer.quantizer.codebooks)
        above = table.n_levels - 1  # an item's last code only tells it from its neighbours
        own = (tokenizer.quantizer.encode(inputs)[:, :above] == codes[:, :above]).all(1)
    else:
        codes, own = np.zeros((0, table.n_levels), np.int64), np.zeros(0, bool)
    moved_again = {int(item): code.tolist() for item, code in zip(again, codes[: len(again)], strict=True)}
    extended = table.extended(codes[len(again) :]) if len(changes.new) else table
    facts = {
        "coded": len(fresh),
        "beside_their_node": int((~own).sum()),
        "with_a_brought_vector": int(has[changes.new].sum()),
    }
    if changes:
        _write_catalogue(draft, run, changes)
    if len(fresh) or (brought is not None and brought.any()):
        draft.write("embed", "item_vectors.safetensors", lambda path: save_file(vectors, path))
        _extend_tables(draft, run, before["collaborative"], vectors, changes.new)
    if len(changes.new):
        _write_codes(draft, run, extended, inputs[len(again) :])
    return Coded(extended, vectors, moved_again, facts)


def _texts_of(catalogue: Catalogue, items: np.ndarray) -> list[str]:
    some = Catalogue(
        catalogue.item_ids[items],
        [catalogue.titles[item] for item in items],
        {name: [values[item] for item in items] for name, values in catalogue.columns.items()},
    )
    return some.texts()


def _inputs(run: Run, tokenizer: Any, vectors: dict[str, np.ndarray], items: np.ndarray) -> np.ndarray:
    """What the quantizer reads of `items` [K, ·]."""
    has, text = vectors["has_collaborative"][items], vectors.get("text")
    if tokenizer.inputs.collaborative is not None and tokenizer.content is None and not has.all():
        raise RunError(
            f"{run.path}: {int((~has).sum())} new items have neither a text vector (the run has none: embed.text_encoder) nor one that was "
            "brought, so nothing says what they are; bring them with --item-embeddings"
        )
    collaborative = vectors["collaborative"][items].copy()
    if tokenizer.content is not None and not has.all():
        assert text is not None
        collaborative[~has] = tokenizer.content.predict(text[items][~has])
    return tokenizer.inputs.apply(collaborative, None if text is None else text[items])


def _write_catalogue(draft: Draft, run: Run, changes: Changes) -> None:
    draft.write("prepare", "items.parquet", lambda path: _save_catalogue(changes.after, path))
    report = run.read_json("prepare", "prepare.json")
    report["counts"] = report["counts"] | {"items": len(changes.after)}
    draft.write("prepare", "prepare.json", lambda path: _save_json(report, path))


def _write_codes(draft: Draft, run: Run, table: SemanticIdTable, inputs: np.ndarray) -> None:
    """The longer table, and what the model reads of new items."""
    draft.write("tokenize", "semantic_ids.safetensors", lambda path: save_file({"codes": table.codes}, path))
    draft.write(
        "tokenize", "semantic_ids.json", lambda path: path.write_text(table.facts_text(), encoding="utf-8")
    )
    record = run.record("adapt")
    if record is not None and HEAD in record["artifacts"]:
        head = load_file(run.artifact("adapt", HEAD))
        if "reader.vectors" in head:
            head["reader.vectors"] = np.concatenate([head["reader.vectors"], inputs])
            draft.write("adapt", HEAD, lambda path: save_file(head, path))


def _save_catalogue(catalogue: Catalogue, path: Path) -> None:
    catalogue.save(path.parent, path.name)


def _save_json(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _extend_tables(
    draft: Draft, run: Run, before: np.ndarray, vectors: dict[str, np.ndarray], new: np.ndarray
) -> None:
    """Rows for new items in the tables of the stage embed: of a table of items what their text says (or their brought vector), of a
    table of messages nothing: what no graph has seen says nothing of who had it, until the graph is trained again.
    """
    artifacts = (run.record("embed") or {"artifacts": {}})["artifacts"]
    text, has = vectors.get("text"), vectors["has_collaborative"]
    told = Told(text, vectors["collaborative"], has, new)
    if "user_messages.safetensors" in artifacts:
        messages = load_file(run.artifact("embed", "user_messages.safetensors"))
        if np.array_equal(
            messages["messages"], before
        ):  # they are the items' vectors, as where those were brought
            messages["messages"] = vectors["collaborative"]
        else:
            messages = {name: _longer(rows, len(new)) for name, rows in messages.items()}
        draft.write("embed", "user_messages.safetensors", _saver(messages))
    if not len(new):
        return
    if "retrieval.safetensors" in artifacts:
        arrays = load_file(run.artifact("embed", "retrieval.safetensors"))
        rows = told(arrays["items"])
        both = {
            "items": _longer(arrays["items"], len(new), rows),
            "messages": _longer(arrays["messages"], len(new)),
        }
        draft.write("embed", "retrieval.safetensors", lambda path: save_file(both, path))
    for name in SASRECS:
        if f"{name}.safetensors" in artifacts:
            arrays = load_file(run.artifact("embed", f"{name}.safetensors"))
            arrays[TABLE] = _longer(arrays[TABLE], len(new), told(arrays[TABLE]))
            draft.write("embed", f"{name}.safetensors", _saver(arrays))


def _saver(arrays: dict[str, np.ndarray]) -> Callable[[Path], Any]:
    return lambda path: save_file(arrays, path)


def _longer(rows: np.ndarray, n: int, more: np.ndarray | None = None) -> np.ndarray:
    """`rows` with n behind them: `more`, or zeros."""
    behind = np.zeros((n, *rows.shape[1:]), rows.dtype) if more is None else more.astype(rows.dtype)
    return np.concatenate([rows, behind])


@dataclass(frozen=True)
class Told:
    """Rows of a learned table [N, d] for new items, by ridge regression from the texts, or from brought vectors, of the others."""

    text: np.ndarray | None
    collaborative: np.ndarray
    has: np.ndarray
    new: np.ndarray

    def __call__(self, table: np.ndarray) -> np.ndarray:
        """[K, d], of the mean length of the table's rows; zeros where nothing is known of an item."""
        known = np.abs(table).sum(1) > 0
        source = self.text if self.text is not None else np.where(self.has[:, None], self.collaborative, 0)
        path = ContentPath.fit(source[: len(table)][known], unit_rows(table[known]), seed=0)
        length = float(np.linalg.norm(table[known], axis=1).mean())
        rows = path.predict(source[self.new]) * length
        rows[np.abs(source[self.new]).sum(1) == 0] = 0
        return rows


def extend_records(draft: Draft, methods: Methods) -> None:
    """P_q's records of new items, where the run has records: `llm.stage1.records`, the model's frozen input embeddings.
    `methods` are the draft's.
    """
    record = draft.parent.record("personalize")
    if record is None or RECORDS not in record["artifacts"]:
        return
    old = open_record_vectors(draft.parent.artifact("personalize", RECORDS)).numpy()
    builder, n = methods.world.builder, methods.dataset.n_items
    if n == len(old):
        return
    parts = [old]
    for start in range(len(old), n, CHUNK):
        some = np.arange(start, min(start + CHUNK, n))
        texts = _texts_of(methods.dataset.catalogue, some)
        tokens = [
            builder.encode(text)[:TEXT_TOKENS] + builder.item_tokens[item].tolist()
            for item, text in zip(some, texts, strict=True)
        ]
        parts.append(mean_embedding(methods.model, tokens).cpu().numpy())
    whole = {"records": np.concatenate(parts)}
    draft.write("personalize", RECORDS, lambda path: save_file(whole, path))
