"""Names that come out of a file or a folder, joined to the folder they are of, and refused where they lead out of it.

Whoever sends a run sends its journals, manifests, sums and settings too, and links among its files. None of them says where
anything is read or written outside of what was sent: every such name passes `inside`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any


class RunError(ValueError):
    """A run directory or an artifact in it that cannot be used; the message says which and what to do."""


class OutsideError(RunError):
    """A name that leads out of the folder that it should be in; the message says who said it."""


def inside(root: Path, name: Any, said_by: str | Path, base: Path | None = None) -> Path:
    """`base / name` (`base` is `root` or a folder of it; default: `root`), which lies in `root` and is not `root`.

    Links are followed: what a link points to has to lie in `root` too. Raises `OutsideError`, naming `said_by` (the file or
    the folder that has the name) and the name, for what is not text, empty, absolute, has `..` or a NUL in it, or resolves
    outside of `root`.
    """
    base = root if base is None else base
    if not isinstance(name, str) or not name or "\0" in name:
        raise OutsideError(f"{said_by}: expected the name of a file in {base}, found {name!r}")
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or not parts:
        raise OutsideError(
            f"{said_by}: the name {name!r} leads out of {base}; it is neither read nor written"
        )
    path, whole = base / name, root.resolve()
    try:
        there = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, names that are too long
        raise OutsideError(f"{said_by}: the name {name!r} cannot be followed: {error}") from None
    if there == whole or not there.is_relative_to(whole):
        raise OutsideError(
            f"{said_by}: {name!r} is a link, or lies behind one, that leads out of {root} (to {there}); it is neither read nor "
            "written"
        )
    return path


def plain_name(name: Any, said_by: str | Path) -> str:
    """`name`, which is that of a file or folder right in another: no path, not hidden. Raises `OutsideError` otherwise."""
    if not isinstance(name, str) or not name or name.startswith(".") or "/" in name or "\0" in name:
        raise OutsideError(f"{said_by}: expected the plain name of a folder, found {name!r}")
    return name


def drop_links(folder: Path) -> None:
    """Remove every link below a folder that is about to be written in: somebody else may have left it there."""
    for path in list(folder.rglob("*")):
        if path.is_symlink():
            path.unlink()
