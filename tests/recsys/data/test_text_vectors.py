"""Text vectors kept across runs: the same bytes as read anew, nothing read twice, and nothing believed that is damaged."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
import torch

from recsys.data.text_vectors import TextEncoder

TEXTS = [
    f"{name} ({year}) {genre}"
    for year, name in enumerate(("Heat", "Seven", "The Third Man", "Ran", "M"), start=1980)
    for genre in ("Drama", "Crime, Drama and Thriller", "Comedy", "Drama")
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRELUDE_TEXT_CACHE", "on")
    monkeypatch.setenv("PRELUDE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text_vectors.sqlite"


@pytest.fixture
def read(encoder, monkeypatch) -> list[str]:
    """The texts that were forwarded."""
    texts: list[str] = []
    honest = encoder.read

    def watched(some):
        texts.extend(some)
        return honest(some)

    monkeypatch.setattr(encoder, "read", watched)
    return texts


@torch.no_grad()
def plain(encoder: TextEncoder, texts: list[str], batch: int) -> np.ndarray:
    """As it always was: sorted by characters, padded batches."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    result = np.zeros((len(texts), encoder.dim), np.float32)
    for start in range(0, len(texts), batch):
        rows = order[start : start + batch]
        inputs = encoder._tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
        hidden, mask = encoder._model(**inputs).last_hidden_state, inputs["attention_mask"][..., None].float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        result[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return result


@pytest.mark.parametrize("keep", [True, False])
def test_listed_vectors_have_the_bytes_that_they_always_had(encoder, cache, keep):
    wanted = plain(encoder, TEXTS, 6)
    for _ in range(2):
        assert encoder.encode(TEXTS, 6, keep=keep).tobytes() == wanted.tobytes()
    assert cache.exists() == keep


def test_a_catalogue_that_was_read_is_not_read_again(encoder, cache, read):
    first = encoder.encode(TEXTS, 6, keep=True)
    assert len(read) == len(TEXTS)
    again = encoder.encode(TEXTS, 6, keep=True)
    assert len(read) == len(TEXTS)
    assert again.tobytes() == first.tobytes()
    encoder.encode([*TEXTS[:-1], "another"], 6, keep=True)  # what stands in another batch is another batch
    assert len(TEXTS) < len(read) <= 2 * len(TEXTS)


def test_alike_a_vector_is_its_own_and_no_text_is_read_twice(encoder, cache, read):
    alone = np.concatenate([encoder.encode([text], batches="alike") for text in TEXTS])
    read.clear()
    together = encoder.encode(TEXTS, 4, batches="alike", keep=True)
    assert together.tobytes() == alone.tobytes()
    assert sorted(read) == sorted(set(TEXTS))  # some stand there twice
    grown = encoder.encode([*TEXTS[::-1], "another"], 3, batches="alike", keep=True)
    assert grown[:-1].tobytes() == together[::-1].tobytes()
    assert sorted(read) == sorted({*TEXTS, "another"})
    np.testing.assert_allclose(together, encoder.encode(TEXTS), atol=1e-6)


def test_another_encoder_or_another_cut_is_another_vector(encoder, cache, read):
    encoder.encode(TEXTS, batches="alike", keep=True)
    shorter = TextEncoder(max_tokens=6)
    assert shorter.identity() != encoder.identity()
    found = shorter.encode(TEXTS, batches="alike", keep=True)
    assert found.tobytes() == shorter.encode(TEXTS, batches="alike").tobytes()
    assert not np.allclose(found, encoder.encode(TEXTS), atol=1e-3)


def test_a_damaged_vector_is_read_again_and_mended(encoder, cache, read):
    wanted = encoder.encode(TEXTS, batches="alike", keep=True)
    read.clear()
    with sqlite3.connect(cache) as file:
        name, rows = file.execute("SELECT name, rows FROM vectors LIMIT 1").fetchone()
        file.execute("UPDATE vectors SET rows = ? WHERE name = ?", (rows[:-1] + bytes([rows[-1] ^ 1]), name))
    file.close()
    for count in (1, 1):
        assert encoder.encode(TEXTS, batches="alike", keep=True).tobytes() == wanted.tobytes()
        assert len(read) == count


@pytest.mark.parametrize("how", ["damaged", "a folder"])
def test_a_file_that_cannot_be_used_is_said_and_done_without(encoder, cache, capsys, how):
    cache.parent.mkdir()
    cache.mkdir() if how == "a folder" else cache.write_bytes(b"no database at all" * 100)
    found = encoder.encode(TEXTS, 6, keep=True)
    assert found.tobytes() == encoder.encode(TEXTS, 6).tobytes()
    assert capsys.readouterr().err.count("text vectors are not kept") == 1


def test_a_setting_does_without(encoder, cache, monkeypatch):
    monkeypatch.setenv("PRELUDE_TEXT_CACHE", "off")
    encoder.encode(TEXTS, keep=True)
    assert not cache.exists()


def test_what_is_not_said_to_be_kept_leaves_nothing(encoder, cache):
    encoder.encode(["what somebody wrote about themselves"])
    assert not cache.exists()


def test_a_kill_costs_what_was_not_written(encoder, cache, read, monkeypatch):
    monkeypatch.setattr("recsys.data.text_vectors.WRITTEN", 2)
    honest = encoder.read

    def dies(some):
        if len(read) >= 12:
            raise KeyboardInterrupt
        return honest(some)

    monkeypatch.setattr(encoder, "read", dies)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(TEXTS, 4, keep=True)
    monkeypatch.setattr(encoder, "read", honest)
    read.clear()
    encoder.encode(TEXTS, 4, keep=True)
    assert len(read) == len(TEXTS) - 8


def test_no_texts_are_no_vectors(encoder, cache):
    for batches in ("listed", "alike"):
        assert encoder.encode([], batches=batches, keep=True).shape == (0, 384)
