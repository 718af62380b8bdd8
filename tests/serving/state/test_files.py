"""A SQLite file that is only read: fixed where nobody can write."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace

import pytest

from serving.state import files
from serving.state.files import TO_SHARE, only_read


@pytest.mark.parametrize(("free", "fixed"), [(TO_SHARE, False), (TO_SHARE - 1, True)])
def test_a_file_is_fixed_where_there_is_no_room_for_what_its_readers_share(
    tmp_path, monkeypatch, free, fixed
):
    path = tmp_path / "a state?.sqlite"
    with sqlite3.connect(path) as state:
        state.execute("CREATE TABLE had (item)")
        state.execute("INSERT INTO had VALUES ('i1')")
    state.close()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert ("immutable=1" in only_read(path)) == fixed
    read = sqlite3.connect(only_read(path), uri=True)
    assert read.execute("SELECT item FROM had").fetchall() == [("i1",)]
    with pytest.raises(sqlite3.OperationalError):
        read.execute("INSERT INTO had VALUES ('i2')")
    read.close()
    path.with_name(f"{path.name}-wal").write_bytes(b"something that was committed")
    assert "immutable=1" not in only_read(path), "what is in the log would not be seen"
