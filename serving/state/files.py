"""A SQLite file that is read and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import quote

TO_SHARE = 36 << 10  # bytes: SQLite's index of what is in the log, and a page of the file system


def only_read(path: Path) -> str:
    """SQLite's URI of a file that is read and nothing else; where nothing can be written, it is nobody's to change: in a folder without
    leave, and on a disk without room for the index that readers and writers share, if all that was committed is in the file itself.
    """
    log = path.with_name(f"{path.name}-wal")
    is_full = shutil.disk_usage(path.parent).free < TO_SHARE and not (log.exists() and log.stat().st_size)
    fixed = "&immutable=1" if is_full or not os.access(path.parent, os.W_OK) else ""
    return f"file:{quote(str(path))}?mode=ro{fixed}"
