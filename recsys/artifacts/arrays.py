"""Arrays of an artifact with no byte read twice: safetensors that stay on disk, mapped, and columns of Parquet read in place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from recsys.artifacts.paths import RunError

_KINDS = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
MOST_HEADER = 100 << 20  # bytes: the format's own limit


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `safetensors.numpy.load_file` returns, without reading it: name -> array; what is written into one is nobody else's.

    Raises `RunError` for a file that is none, and for a type that NumPy lacks (bfloat16).
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER):
            raise RunError(f"{path} is damaged: it is no safetensors file")
        head = file.read(length)
    try:
        entries = {name: entry for name, entry in json.loads(head).items() if name != "__metadata__"}
        places = {
            name: (_KINDS[entry["dtype"]], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged or of a type that cannot be mapped ({error})") from None
    if size == 8 + length:  # an empty map cannot be made
        return {name: np.zeros(shape, kind) for name, (kind, shape, *_) in places.items()}
    mapped = np.memmap(path, np.uint8, mode="c", offset=8 + length)
    found = {}
    for name, (kind, shape, start, stop) in places.items():
        if (
            not 0 <= start <= stop <= len(mapped)
            or stop - start != int(np.prod(shape)) * np.dtype(kind).itemsize
        ):
            raise RunError(f"{path} is damaged: '{name}' does not lie in it")
        found[name] = np.asarray(mapped[start:stop]).view(kind).reshape(shape)
    return found


def read_columns(path: Path, at_once: int = 1 << 17) -> dict[str, np.ndarray]:
    """The columns [n] of a Parquet file without nulls, as NumPy has them (texts as objects), each read into its place.

    Reading the file whole takes the numbers twice, and Arrow keeps what it has freed.
    """
    found = {}
    with pq.ParquetFile(path, memory_map=True) as file:
        for field in file.schema_arrow:
            values = np.empty(file.metadata.num_rows, field.type.to_pandas_dtype())
            at = 0
            for batch in file.iter_batches(at_once, columns=[field.name]):
                part = batch.column(0).to_numpy(zero_copy_only=False)
                values[at : at + len(part)] = part
                at += len(part)
            found[field.name] = values
    return found
