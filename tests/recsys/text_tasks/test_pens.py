"""PENS on tiny files written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.door.tables import DataError
from recsys.text_tasks.pens import load_pens


def write_pens(folder: Path) -> Path:
    news = [("News ID", "Category", "Topic", "Headline", "News body", "Title entity", "Entity content")]
    news += [(f"N{k}", "sports", "x", f"Headline {k}", f'Body {k} "quoted', "{}", "{}") for k in range(6)]
    (folder / "news.tsv").write_text("\n".join("\t".join(row) for row in news) + "\n")
    header = "UserID\tClicknewsID\tdwelltime\texposure_time\tpos\tneg\tstart\tend\tdwelltime_pos\n"
    times = "#TAB#".join(["6/19/2019 5:10:01 AM", "6/20/2019 1:00:00 PM", "7/3/2019 6:00:00 AM"])
    row = f"U1\tN0 N1 N2\t3 4 5\t{times}\tN3 N4\tN5\t7/3/2019 6:00:00 AM\t7/3/2019 7:00:00 AM\t9 9\n"
    for name in ("train", "valid"):
        (folder / f"{name}.tsv").write_text(header + row)
    (folder / "personalized_test.tsv").write_text(
        "userid\tclicknewsID\tposnewID\trewrite_titles\nNT1\tN0,N1\tN3,N5\tMine three;;Mine five\n"
    )
    return folder


def test_pens(tmp_path):
    task = load_pens(write_pens(tmp_path), 50)
    assert [(item.target, item.user) for item in task.train] == [("Headline 3", "U1"), ("Headline 4", "U1")]
    # the click at the very second of the impression is not before it
    assert [record.text for record in task.train[0].history] == ["Headline 0", "Headline 1"]
    assert 'Body 3 "quoted' in task.train[0].input
    assert "Headline 3" not in task.train[0].input
    assert [item.target for item in task.test] == ["Mine three", "Mine five"]
    assert [record.text for record in task.test[0].history] == ["Headline 0", "Headline 1"]
    text = (tmp_path / "train.tsv").read_text()
    (tmp_path / "train.tsv").write_text(text.replace("N3 N4", "N9"))
    with pytest.raises(DataError, match=r"train\.tsv:2: news N9 is not in news\.tsv"):
        load_pens(tmp_path, 50)
    (tmp_path / "train.tsv").write_text(text.replace("7/3/2019 6:00:00 AM\t", "noon\t", 1))
    with pytest.raises(DataError, match=r"train\.tsv:2: time 'noon' is not"):
        load_pens(tmp_path, 50)
