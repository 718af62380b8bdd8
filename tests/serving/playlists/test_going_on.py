"""Going on with a playlist run: what is finished stays, another plan or another run is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.answering.recommender import Recommender
from serving.playlists.folder import WORK
from serving.playlists.job import playlists
from serving.playlists.plan import Settings
from tests.support.playlist_files import SETTINGS, asked, bytes_of, killed_at, written


def test_what_is_finished_is_not_done_again_and_another_plan_is_refused(whole, run, here, tmp_path):
    source, _, _ = whole
    out = tmp_path / "out"
    first = playlists(run, source, out, here, SETTINGS, quiet=True)
    assert playlists(run, source, out, here, SETTINGS, quiet=True) == first
    with pytest.raises(
        ValueError, match=r"seed was 3, is 4\. Give another --out, or begin again with --restart"
    ):
        playlists(run, source, out, here, Settings(n=7, batch=4, seed=4), quiet=True)
    longer = written(asked(71), tmp_path / "requests.parquet")
    with pytest.raises(ValueError, match=r"the request file requests\.parquet has changed"):
        playlists(run, longer, out, here, SETTINGS, quiet=True)
    more = written(asked(71), tmp_path / "folder" / "more.parquet").parent
    with pytest.raises(ValueError, match=r"more\.parquet is new; the request file requests\.parquet is gone"):
        playlists(run, more, out, here, SETTINGS, quiet=True)
    again = playlists(run, longer, out, here, SETTINGS, restart=True, quiet=True)
    assert again["counts"]["answered"] == 71


def test_feedback_absorbed_at_night_is_left_out_until_the_next_run(whole, run, here, tmp_path):
    source, out, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert killed_at(60, lambda: playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True))
    everybody = [(f"u{user}", f"i{user % 7}", 2_000_000) for user in range(40)]
    Recommender.load(copy).update(everybody)
    manifest = playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True)
    assert 0 < manifest["last_call"]["answered"] < 70
    assert bytes_of(tmp_path / "out") == bytes_of(out)
    with pytest.raises(ValueError, match=r"the run .* has other artifacts"):  # finished: tonight's are others
        playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True)
    tonight = playlists(copy, source, tmp_path / "tonight", here, SETTINGS, quiet=True)
    assert (manifest["run"]["absorbed"], tonight["run"]["absorbed"]) == (0, 40)
    assert bytes_of(tmp_path / "tonight") != bytes_of(out)


def test_a_run_that_has_changed_meanwhile_is_refused(whole, run, here, tmp_path):
    source, _, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    Recommender.load(copy).update([("u1", "i5", 2_000_000)])
    assert killed_at(60, lambda: playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True))
    shutil.rmtree(copy / "live")
    with pytest.raises(ValueError, match=r"the run .* has other artifacts"):
        playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"caps": {"colour": 2}}, "caps name the column 'colour'; this catalogue has kind"),
        ({"caps": {"kind": 0}}, r"caps\['kind'\] is 0; expected a whole number"),
        ({"method": "popularity", "sequence": True}, "Popularity ranks items one by one"),
        ({"method": "e2p_kto"}, "this run has no method 'e2p_kto'"),
    ],
)
def test_a_slip_under_restart_deletes_nothing(whole, run, here, tmp_path, wrong, message):
    source, out, manifest = whole
    shutil.copytree(out, tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        playlists(run, source, tmp_path / "out", here, replace(SETTINGS, **wrong), restart=True, quiet=True)
    assert bytes_of(tmp_path / "out") == bytes_of(out)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest


def test_a_file_changed_behind_our_back_is_found_at_the_close(whole, run, here, tmp_path):
    source, _, _ = whole

    class Meddling:
        name, workers = "meddling", 1

        def run(self, work, tasks):
            yield from here.run(work, tasks)
            path = sorted((tmp_path / "out" / WORK).glob("*/done/playlists/*"))[2]
            table = pq.read_table(path)
            first = table["request_id"][0]
            keep = np.array([id_ != first for id_ in table["request_id"]])
            pq.write_table(table.filter(pa.array(keep)), path)

    with pytest.raises(ValueError, match=r"part-.* does not hold each of its \d+ requests once; delete it"):
        playlists(run, source, tmp_path / "out", Meddling(), SETTINGS, quiet=True)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_other_mistakes_are_one_line(whole, run, here, tmp_path):
    source, _, _ = whole
    (tmp_path / "folder").mkdir()
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(source.read_bytes()[:-100])
    stranger = tmp_path / "stranger"
    (stranger / "playlists").mkdir(parents=True)
    for requests, out, settings, message in (
        (tmp_path / "folder", tmp_path / "out", SETTINGS, r"has no \*\.parquet files"),
        (tmp_path / "nowhere", tmp_path / "out", SETTINGS, "does not exist"),
        (torn, tmp_path / "out", SETTINGS, "cannot be read as Parquet"),
        (source.parent, source.parent / "deep" / "out", SETTINGS, "lies in .*, whose files are the requests"),
        (source, stranger, SETTINGS, "playlists is there and not of a run of playlists"),
        (
            source,
            tmp_path / "out",
            Settings(method="nonsense"),
            "this run has no method 'nonsense'; it has popularity",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            playlists(run, requests, out, here, settings, restart=True)
    assert not (tmp_path / "out").exists()
    assert (stranger / "playlists").exists()
    for wrong in (
        {"n": 0},
        {"n": 1001},
        {"strength": 1.5},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"batch": 0},
        {"memory_mb": 0},
    ):
        with pytest.raises(ValueError, match=f"--{next(iter(wrong)).replace('_', '-')} "):
            Settings(**wrong)
    with pytest.raises(ValueError, match="order is 'best'; expected one of 'as made'"):
        Settings(order="best")
