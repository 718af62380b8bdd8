"""SHA256SUMS of an exported or imported run: the hash of every file, as `sha256sum -c` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SUMS = "SHA256SUMS"


def sums_text(hashes: Mapping[str, str]) -> str:
    """What the file holds: a line for each name, in order."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))


def sums_after(text: str, changed: Mapping[str, str | None]) -> str:
    """The file after some of the files that it names were rewritten (name -> new sha256) or removed (None).

    What it does not name stays unnamed: files that came after the export are not of it.
    """
    hashes = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    after = {name: changed.get(name, digest) for name, digest in hashes.items()}
    return sums_text({name: digest for name, digest in after.items() if digest is not None})


def deletions_since(manifest: Mapping[str, Any]) -> int:
    """How many deletions of persons the manifest of an exported run records that its export did not know."""
    exported = manifest.get("exported") or {}
    return len(manifest.get("deletions", [])) - exported.get("deletions", 0) if exported else 0
