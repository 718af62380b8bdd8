"""Where playlists are written: a folder in which somebody left links leads nowhere else."""

from __future__ import annotations

import pytest

from recsys.artifacts.paths import OutsideError
from serving.playlists.folder import DELETED, RESULTS, WORK, refuse_strangers
from serving.playlists.job import playlists
from tests.support.playlist_files import SETTINGS, asked, written


@pytest.mark.parametrize("name", [*RESULTS, WORK, DELETED])
@pytest.mark.parametrize("restart", [False, True])
def test_a_link_out_of_the_folder_is_refused_before_anything_is_written(run, here, tmp_path, name, restart):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (elsewhere / "plan.json").write_text("{}")
    (out / name).symlink_to(elsewhere)
    source = written(asked(5), tmp_path / "requests.parquet")
    with pytest.raises(OutsideError, match="is a link"):
        playlists(run, source, out, here, SETTINGS, restart=restart, quiet=True)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["mine.txt", "plan.json"]
    assert [path.name for path in out.iterdir()] == [name]


def test_a_folder_that_is_itself_behind_a_link_is_fine(run, here, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    refuse_strangers(tmp_path / "out")
    source = written(asked(5), tmp_path / "requests.parquet")
    assert playlists(run, source, tmp_path / "out", here, SETTINGS, quiet=True)["counts"]["requests"] == 5
    assert (tmp_path / "disk" / "playlists").is_dir()
