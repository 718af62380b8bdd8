"""LaMP (Salemi et al. 2024, tasks 1 to 7) and LongLaMP (Kumar et al. 2024): the published files as instances.

LaMP comes as `train_questions.json`, `train_outputs.json`, `dev_questions.json` and so on, one folder a task.
A question has `id`, `input` and `profile` (a list of records with `id` and the task's own fields, and `date`
in the time-based version); outputs are `{"task": …, "golds": [{"id": …, "output": …}]}`. Outputs of `test`
are not public, so without `test_outputs.json` the dev questions are divided, by user, into validation and
test.

LongLaMP comes as Parquet or JSON lines with `input`, `output`, `profile` and a column that names the user.

Prompts are in our own words around the content of the published input, as P2P's are; the content is what
stands behind the published keyword (`description:`, `article:` …), found as the benchmark's own code finds
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from recsys.door.sources import read_table
from recsys.door.tables import DataError
from recsys.text_tasks.instances import (
    Instance,
    Kind,
    Record,
    TextTask,
    divide_users,
    field,
    placed,
    read_json,
)

MOVIE_TAGS = (
    "sci-fi", "based on a book", "comedy", "action", "twist ending", "dystopia", "dark comedy", "classic",
    "psychology", "fantasy", "romance", "thought-provoking", "social commentary", "violence", "true story",
)  # fmt: skip
NEWS_CATEGORIES = (
    "travel", "education", "parents", "style & beauty", "entertainment", "food & drink", "science & technology",
    "business", "sports", "healthy living", "women", "politics", "crime", "culture & arts", "religion",
)  # fmt: skip
SCORES = ("1", "2", "3", "4", "5")
VALIDATION_SHARE = 0.2  # of the dev users, where the test outputs are not public
EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True)
class Format:
    """One task's form: what the input holds, how it is asked, and how a profile record reads."""

    kind: Kind
    keyword: str  # the content of the published input stands behind it; empty: the whole input
    ask: Callable[[str], str]
    fields: tuple[str, ...]  # of a profile record, all required
    show: Callable[[Mapping[str, str]], str]
    labels: tuple[str, ...] | None = None
    longest_answer: int = 48


def _one_of(labels: Sequence[str]) -> str:
    return f"Answer with one of: {', '.join(labels)}."


FORMATS = {
    "LaMP-1": Format(
        "labels",
        "",
        lambda content: (
            f"A researcher wrote the first paper. Which of the two papers, [1] or [2], do they cite in it?\n{content}"
        ),
        ("title", "abstract"),
        lambda record: f"wrote “{record['title']}”: {record['abstract']}",
        ("[1]", "[2]"),
    ),
    "LaMP-2M": Format(
        "labels",
        "description:",
        lambda content: f"Which tag fits this film? {_one_of(MOVIE_TAGS)}\nFilm: {content}",
        ("description", "tag"),
        lambda record: f"tagged “{record['tag']}”: {record['description']}",
        MOVIE_TAGS,
    ),
    "LaMP-2N": Format(
        "labels",
        "article:",
        lambda content: (
            f"Which category does this article belong to? {_one_of(NEWS_CATEGORIES)}\nArticle: {content}"
        ),
        ("text", "title", "category"),
        lambda record: f"filed under “{record['category']}”: {record['title']}. {record['text']}",
        NEWS_CATEGORIES,
    ),
    "LaMP-3": Format(
        "rating",
        "review:",
        lambda content: (
            f"How many stars, 1 to 5, go with this review? Answer with the number.\nReview: {content}"
        ),
        ("text", "score"),
        lambda record: f"gave {record['score']} for: {record['text']}",
        SCORES,
    ),
    "LaMP-4": Format(
        "text",
        "article:",
        lambda content: f"Write the headline of this article, and nothing else.\nArticle: {content}",
        ("title", "text"),
        lambda record: f"headline “{record['title']}” for: {record['text']}",
    ),
    "LaMP-5": Format(
        "text",
        "paper:",
        lambda content: (
            f"Write the title of the paper with this abstract, and nothing else.\nAbstract: {content}"
        ),
        ("title", "abstract"),
        lambda record: f"title “{record['title']}” for: {record['abstract']}",
    ),
    "LaMP-6": Format(
        "text",
        ":",
        lambda content: f"Write the subject line of this email, and nothing else.\nEmail: {content}",
        ("title", "text"),
        lambda record: f"subject “{record['title']}” for: {record['text']}",
    ),
    "LaMP-7": Format(
        "text",
        ":",
        lambda content: (
            f"Say this as a tweet in this person's manner; write the tweet only.\nMessage: {content}"
        ),
        ("text",),
        lambda record: f"tweeted: {record['text']}",
        longest_answer=64,
    ),
    "LongLaMP-1": Format(
        "text",
        "",
        lambda content: f"Write the abstract of this paper, and nothing else.\n{content}",
        ("title", "abstract"),
        lambda record: f"abstract of “{record['title']}”: {record['abstract']}",
        longest_answer=320,
    ),
    "LongLaMP-2": Format(
        "text",
        "",
        lambda content: f"Write the Reddit post on this topic, and nothing else.\n{content}",
        ("summary", "content"),
        lambda record: f"post on “{record['summary']}”: {record['content']}",
        longest_answer=400,
    ),
    "LongLaMP-3": Format(
        "text",
        "",
        lambda content: (
            f"Write the review that goes with this rating, product and summary, and nothing else.\n{content}"
        ),
        ("overall", "summary", "description", "reviewText"),
        lambda record: (
            f"gave {record['overall']}, “{record['summary']}”, to {record['description']}: {record['reviewText']}"
        ),
        longest_answer=400,
    ),
}
USER_COLUMNS = ("user_id", "user", "reviewerId", "reviewerID", "author", "name")  # of LongLaMP's three sets


def load_lamp(name: str, folder: Path, seed: int, records: int) -> TextTask:
    """LaMP task `name` (LaMP-1, LaMP-2M, LaMP-2N, LaMP-3 … LaMP-7) from its folder;
    histories keep the last `records`.
    """
    form = FORMATS[name]
    splits = {
        split: _lamp_split(name, form, folder, split, records)
        for split in ("train", "dev", "test")
        if split != "test" or (folder / "test_outputs.json").exists()
    }
    return _task(name, form, splits["train"], splits["dev"], splits.get("test"), seed)


def load_longlamp(name: str, folder: Path, seed: int, records: int) -> TextTask:
    """LongLaMP-1 (abstracts), -2 (topics) or -3 (reviews):
    `train`, `val` or `validation`, and `test` files of a folder.
    """
    form = FORMATS[name]
    train = _longlamp_split(name, form, folder, ("train",), records)
    validation = _longlamp_split(name, form, folder, ("val", "validation", "dev"), records)
    test = _longlamp_split(name, form, folder, ("test",), records)
    return _task(name, form, train, validation, test, seed)


def _task(name: str, form: Format, train, dev, test, seed: int) -> TextTask:
    notes: tuple[str, ...] = ()
    if test is None:
        first = divide_users((item.user for item in dev), VALIDATION_SHARE, seed, "lamp")
        test = [item for item in dev if item.user not in first]
        dev = [item for item in dev if item.user in first]
        notes = ("The outputs of test are not public: the dev questions are divided, by user, in two.",)
    return TextTask(name, form.kind, tuple(train), tuple(dev), tuple(test), form.longest_answer, notes)


def _lamp_split(name: str, form: Format, folder: Path, split: str, records: int) -> list[Instance]:
    questions_path, outputs_path = folder / f"{split}_questions.json", folder / f"{split}_outputs.json"
    questions, outputs = read_json(questions_path), read_json(outputs_path)
    if not isinstance(questions, list) or not questions:
        raise DataError(f"{questions_path}: expected a list of questions; download the file again")
    if not isinstance(outputs, dict) or not isinstance(outputs.get("golds"), list):
        raise DataError(f"{outputs_path}: expected an object with a list 'golds'; download the file again")
    golds = {
        field(gold, "id", f"{outputs_path} gold {number}"): field(
            gold, "output", f"{outputs_path} gold {number}"
        )
        for number, gold in enumerate(outputs["golds"], 1)
    }
    found = []
    for number, question in enumerate(questions, 1):
        where = f"{questions_path} question {number}"
        identifier = field(question, "id", where)
        if identifier not in golds:
            raise DataError(
                f"{where}: id {identifier} has no output in {outputs_path}; both files must match"
            )
        found.append(_instance(form, question, golds[identifier], f"{split}-{identifier}", where, records))
    return found


def _instance(
    form: Format, row: Mapping[str, Any], target: str, identifier: str, where: str, records: int
) -> Instance:
    profile = row.get("profile")
    if profile is None or isinstance(profile, str | bytes | dict):
        raise DataError(f"{where}: 'profile' is not a list of records; download the file again")
    when = _day(row["date"], where) if row.get("date") else None
    user = next((str(row[column]) for column in USER_COLUMNS if row.get(column)), identifier)
    with placed(where):
        question = form.ask(_content(form, field(row, "input", where), where))
        history = _history(form, profile, when, where)[-records:]
        return Instance(identifier, user, question, target, when, form.labels, history)


def _content(form: Format, text: str, where: str) -> str:
    """What the published input is about, without the benchmark's own instruction."""
    if not form.keyword:
        return text
    place = text.find(form.keyword)
    if place < 0:
        raise DataError(f"{where}: the input has no '{form.keyword}'; is this file of another task?")
    return text[place + len(form.keyword) :].strip()


def _history(form: Format, profile: Sequence[Any], when: int | None, where: str) -> tuple[Record, ...]:
    """Records in order of their date where all have one, else in the file's;
    those not before `when` are left out.
    """
    records = []
    for number, entry in enumerate(profile, 1):
        place = f"{where}, profile record {number}"
        parts = {name: field(entry, name, place, allow_empty=True) for name in form.fields}
        records.append((form.show(parts), _day(entry["date"], place) if entry.get("date") else None))
    dated = bool(records) and all(day is not None for _, day in records)
    if when is not None and not dated and records:
        raise DataError(
            f"{where}: the question has a date and a profile record has none; date all, or leave it out"
        )
    if not dated:
        return tuple(Record(text, number) for number, (text, _) in enumerate(records))
    known = [Record(text, day) for text, day in records if day is not None]
    return tuple(
        sorted(
            (record for record in known if when is None or record.time < when), key=lambda record: record.time
        )
    )


def _day(value: Any, where: str) -> int:
    """Unix seconds of the start of a day: `2014`, `2014-05` or `2014-05-31` (a missing part is its first)."""
    match = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?(?:[T ].*)?", str(value).strip())
    try:
        if match is None:
            raise ValueError
        year, month, day = (int(part) if part else 1 for part in match.groups())
        return (date(year, month, day).toordinal() - EPOCH) * 86_400
    except ValueError:
        raise DataError(f"{where}: date {value!r} is not a date; expected year-month-day") from None


def _longlamp_split(
    name: str, form: Format, folder: Path, stems: Sequence[str], records: int
) -> list[Instance]:
    paths = [
        path
        for path in sorted(folder.glob("*"))
        if path.suffix in (".parquet", ".jsonl") and path.stem.split("-")[0] in stems
    ]
    if not paths:
        raise DataError(
            f"{folder} has no file {' or '.join(stems)} (.parquet or .jsonl); download the set {name} there"
        )
    found = []
    for path in paths:
        table = read_table(path)
        columns = {column: table.raw(column) for column in table.columns}
        for number in range(table.n_rows):
            where = table.place(number)
            row = {column: values[number] for column, values in columns.items()}
            target = field(row, "output", where)
            found.append(_instance(form, row, target, f"{path.stem}-{number}", where, records))
    return found
