"""The bytes of a text file, whole: unpacked (.gz, .zst, .bz2, .lz4) and known to be text in one encoding."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pyarrow as pa

from recsys.door.tables import DataError

PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}


def text_bytes(path: Path, encoding: str = "utf-8") -> bytes:
    """The file's bytes, unpacked, in `encoding`. Raises `DataError` naming the line of the first byte that is not text."""
    data = unpacked(path)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(
            f"{path}:1: the file is UTF-16; save it as UTF-8, for example: iconv -f utf-16 -t utf-8"
        )
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"{path}:{line}: a zero byte; this is not a text file, or it is damaged")
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not {encoding.upper()}; save the file as "
            f"UTF-8, for example: iconv -f latin1 -t utf-8"
        ) from None
    return data.removeprefix(b"\xef\xbb\xbf")


def unpacked(path: Path) -> bytes:
    """All bytes of a file, decompressed by its suffix. Raises `DataError` for one that cannot be read, is damaged or empty."""
    packing = PACKED.get(path.suffix.lower())
    try:
        data = path.read_bytes()
        if packing == "gzip":
            data = gzip.decompress(data)
        elif packing is not None:
            data = pa.CompressedInputStream(pa.BufferReader(data), packing).read()
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); make or download it again") from None
    except OSError as error:
        what = "cannot be read" if packing in (None, "gzip") else f"cannot be read as {packing}"
        raise DataError(f"{path} {what} ({error}); is it whole, and are you allowed to read it?") from None
    if not data.strip():
        raise DataError(f"{path} is empty; it needs a header and rows")
    return data


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file. Raises `DataError` if it is missing, empty or in another encoding."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of one")
    return text_bytes(path).decode().splitlines()
