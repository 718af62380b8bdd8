"""An export whose files were altered on the way: refused in one message, and nothing of it stays."""

from __future__ import annotations

import json
import shutil
from collections import Counter

from recsys.seeds import rng
from serving import Recommender
from serving.export.folder import import_run
from tests.support.mutants import MUTANTS, OF_BYTES, told


def test_altered_exports_are_refused_and_leave_nothing(exported, tmp_path):
    """One file of each is cut, spoiled, re-encoded, lengthened, emptied, renamed, deleted, or joined by a stranger."""
    names = sorted(path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file())
    outcomes = Counter[str]()
    for number in range(MUTANTS["exported runs"]):
        draw = rng(number, "mutated exports")
        sent = shutil.copytree(exported, tmp_path / "sent")
        path = sent / str(draw.choice(names))
        how = int(draw.integers(len(OF_BYTES) + 4))
        whole = path.read_bytes()
        if how < len(OF_BYTES):
            path.write_bytes(OF_BYTES[how](whole, draw))
        elif how == len(OF_BYTES):
            path.write_bytes(b"")
        elif how == len(OF_BYTES) + 1:
            path.rename(path.with_name(f"x{path.name}"))
        elif how == len(OF_BYTES) + 2:
            path.unlink()
        else:
            (sent / "prepare" / "more.json").write_text(json.dumps({"more": 1}))
        if path.exists() and path.read_bytes() == whole and how < len(OF_BYTES):
            outcomes["the same"] += 1
        else:
            try:
                import_run(sent, tmp_path / "imported")
                outcomes["read"] += 1
            except ValueError as error:
                told(error, str(sent))
                outcomes["refused"] += 1
        assert outcomes["read"] == 0, (number, path, how)
        assert not (tmp_path / "imported").exists()
        shutil.rmtree(sent)
    assert outcomes["refused"] > 0.8 * MUTANTS["exported runs"], outcomes
    import_run(exported, tmp_path / "imported")
    assert len(Recommender.load(tmp_path / "imported").recommend("u3", n=5)) == 5
