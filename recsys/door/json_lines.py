"""JSON lines: one object a line, strictly, with the line of every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recsys.door.tables import DataError, Table
from recsys.door.text_files import text_bytes

ONE_OBJECT = "expected one object a line (an array can be split with: jq -c '.[]')"


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two values are named {twin!r}; rename one of them")
    return found


_DECODE = json.JSONDecoder(object_pairs_hook=_mapping).decode


def read_json_lines(path: Path) -> Table:
    """A file of objects, one a line; a key that a line lacks is null there. Raises `DataError` with the line."""
    texts = text_bytes(path).split(b"\n")
    lines = [number for number, text in enumerate(texts, start=1) if text.strip()]
    rows = [_object(path, number, texts[number - 1]) for number in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(path, columns, len(rows), lambda row: f"{path}:{lines[row]}")


def _object(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        value = _DECODE(text.decode())
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise DataError(f"{path}:{number}: not JSON ({error}); {ONE_OBJECT}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:{number}: a JSON {type(value).__name__}; {ONE_OBJECT}")
    if b"\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which no file of ours can hold
            raise DataError(f"{path}:{number}: half a character (a lone \\ud800-\\udfff); mend it") from None
    return value
