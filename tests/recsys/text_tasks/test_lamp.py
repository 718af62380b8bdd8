"""LaMP and LongLaMP: formats on tiny files written here, dates, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from recsys.door.tables import DataError
from recsys.text_tasks.lamp import FORMATS, MOVIE_TAGS, load_lamp, load_longlamp

PROFILES = {
    "LaMP-1": {"title": "A", "abstract": "About a."},
    "LaMP-2M": {"description": "A film of robots", "tag": "sci-fi"},
    "LaMP-2N": {"text": "They won.", "title": "Win", "category": "sports"},
    "LaMP-3": {"text": "Great mug", "score": "5"},
    "LaMP-4": {"text": "They won.", "title": "Win"},
    "LaMP-5": {"title": "A", "abstract": "About a."},
    "LaMP-6": {"text": "See you.", "title": "Lunch"},
    "LaMP-7": {"text": "omg so good"},
}


INPUTS = {
    "LaMP-1": ('For an author who has written "X", which reference? [1]: "P" [2]: "Q"', "[2]"),
    "LaMP-2M": ("Which tag does this movie relate to? tags: [sci-fi] description: Robots rebel", "sci-fi"),
    "LaMP-2N": ("Which category? categories: [sports] article: The final", "sports"),
    "LaMP-3": ("What is the score of the following review? review: Broke at once", "1"),
    "LaMP-4": ("Generate a headline for the following article: Rain today", "Rain"),
    "LaMP-5": ("Generate a title for the following abstract of a paper: We study b", "On b"),
    "LaMP-6": ("Generate a subject for the following email: Meet at 5", "Meeting"),
    "LaMP-7": ("Paraphrase the following tweet without any explanation: I am happy", "so happy!!"),
}


def write_lamp(folder: Path, name: str, n: int = 10, **more) -> Path:
    folder.mkdir(exist_ok=True)
    asked, answer = INPUTS[name]
    for split in ("train", "dev"):
        questions = [
            {"id": f"{split}{k}", "input": asked, "profile": [{"id": "1", **PROFILES[name]}]} | more
            for k in range(n)
        ]
        golds = [{"id": f"{split}{k}", "output": answer} for k in range(n)]
        (folder / f"{split}_questions.json").write_text(json.dumps(questions))
        (folder / f"{split}_outputs.json").write_text(json.dumps({"task": name, "golds": golds}))
    return folder


# -- LaMP, LongLaMP, PENS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(INPUTS))
def test_lamp(tmp_path, name):
    task = load_lamp(name, write_lamp(tmp_path, name), 0, 50)
    assert len(task.train) == 10
    assert len(task.validation) == 2
    assert len(task.test) == 8
    item = task.train[0]
    assert item.target == INPUTS[name][1]
    assert item.labels == FORMATS[name].labels
    for value in PROFILES[name].values():
        assert value in item.history[0].text
    content = INPUTS[name][0].split(FORMATS[name].keyword)[-1] if FORMATS[name].keyword else INPUTS[name][0]
    assert item.input.endswith(content.strip())


def test_lamp_dates_cut_the_future(tmp_path):
    folder = write_lamp(tmp_path, "LaMP-2M", date="2015-03-02")
    path = folder / "train_questions.json"
    questions = json.loads(path.read_text())
    record = PROFILES["LaMP-2M"]
    questions[0]["profile"] = [
        {**record, "date": date, "description": date} for date in ("2016", "2015-03-02", "2014-05", "2012")
    ]
    for question in questions[1:]:
        question["profile"] = []
    path.write_text(json.dumps(questions))
    dev = json.loads((folder / "dev_questions.json").read_text())
    (folder / "dev_questions.json").write_text(json.dumps([q | {"profile": []} for q in dev]))
    item = load_lamp("LaMP-2M", folder, 0, 50).train[0]
    assert [record.text.split(": ")[1] for record in item.history] == ["2012", "2014-05"]
    questions[0]["profile"][0]["date"] = "soon"
    path.write_text(json.dumps(questions))
    with pytest.raises(DataError, match=r"question 1, profile record 1: date 'soon'"):
        load_lamp("LaMP-2M", folder, 0, 50)


def test_lamp_is_strict_at_the_door(tmp_path):
    folder = write_lamp(tmp_path, "LaMP-2M")
    path = folder / "train_questions.json"
    good = json.loads(path.read_text())
    for change, message in (
        ({"id": "other"}, r"train_questions\.json question 2: id other has no output"),
        ({"profile": None}, r"question 2: 'profile' is not a list"),
        ({"profile": [{"id": "1", "tag": "x"}]}, r"question 2, profile record 1: no field 'description'"),
        ({"input": "What?"}, r"question 2: the input has no 'description:'"),
    ):
        path.write_text(json.dumps([good[0], good[1] | change, *good[2:]]))
        with pytest.raises(DataError, match=message):
            load_lamp("LaMP-2M", folder, 0, 50)
    path.write_text(json.dumps(good))
    outputs = json.loads((folder / "train_outputs.json").read_text())
    outputs["golds"][0]["output"] = "western"
    (folder / "train_outputs.json").write_text(json.dumps(outputs))
    with pytest.raises(DataError, match=r"question 1: .*'western' is none of the labels"):
        load_lamp("LaMP-2M", folder, 0, 50)
    assert len(set(MOVIE_TAGS)) == 15


@pytest.mark.parametrize(
    ("name", "user", "record"),
    [
        ("LongLaMP-1", "name", {"id": "1", "title": "T", "abstract": "We do."}),
        ("LongLaMP-2", "author", {"id": "1", "summary": "S", "content": "Long text"}),
        (
            "LongLaMP-3",
            "reviewerId",
            {"overall": "5.0", "summary": "S", "description": "Mug", "reviewText": "Nice"},
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_longlamp(tmp_path, name, user, record, suffix):
    for split in ("train", "val", "test"):
        rows = [
            {user: f"{split}{k}", "input": f"Generate {k}", "output": f"out {k}", "profile": [record]}
            for k in range(3)
        ]
        frame = pd.DataFrame(rows)
        if suffix == "parquet":
            frame.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
        else:
            frame.to_json(tmp_path / f"{split}.jsonl", orient="records", lines=True)
    task = load_longlamp(name, tmp_path, 0, 50)
    assert [item.user for item in task.test] == ["test0", "test1", "test2"]
    assert task.train[1].target == "out 1"
    assert all(str(value) in task.train[0].history[0].text for key, value in record.items() if key != "id")
    for path in tmp_path.glob("val*"):
        path.unlink()
    with pytest.raises(DataError, match="has no file val or validation or dev"):
        load_longlamp(name, tmp_path, 0, 50)
