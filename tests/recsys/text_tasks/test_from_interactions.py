"""Text tasks made from interactions: what each instance is asked and shown, and the planted answer."""

from __future__ import annotations

import pandas as pd
import pytest

from recsys.door.tables import DataError
from recsys.text_tasks.from_interactions import STARS, load_lastfm_tagging, load_movielens_rating
from recsys.text_tasks.instances import (
    TextTask,
    context_text,
    profile_text,
)
from recsys.text_tasks.load import TaskDataConfig, load_task
from tests.support.text_files import write_lastfm, write_movielens

# -- the tasks made here ------------------------------------------------------------------------------------------------


def inputs_of(task: TextTask) -> dict:
    """Everything that a model, a retriever or a user vector may read, by question and role."""
    return {
        (role, item.user, item.time, item.input): (context_text(item, 3), profile_text(item, 5), item.labels)
        for role in ("train", "validation", "test")
        for item in getattr(task, role)
    }


def test_movielens_histories_end_before_the_rating(tmp_path):
    task = load_movielens_rating(write_movielens(tmp_path / "ml"), 50)
    ratings = pd.read_csv(tmp_path / "ml" / "ratings.csv")
    for item in (*task.train, *task.validation, *task.test):
        earlier = ratings[(ratings.userId == int(item.user)) & (ratings.timestamp < item.time)]
        assert [record.time for record in item.history] == earlier.timestamp.tolist()
        assert item.labels == STARS
    for user in {item.user for item in task.test}:
        times = {role: [i.time for i in getattr(task, role) if i.user == user] for role in ("train", "test")}
        assert max(times["train"]) < min(times["test"])


def test_a_planted_answer_in_the_same_second_or_later_changes_no_input(tmp_path):
    folder = write_movielens(tmp_path / "ml")
    before = inputs_of(load_movielens_rating(folder, 50))
    ratings = pd.read_csv(folder / "ratings.csv")
    last = ratings.groupby("userId").timestamp.max()
    planted = pd.DataFrame(
        [(user, 77, 2.5, time + shift) for user, time in last.items() for shift in (0, 5)],
        columns=["userId", "movieId", "rating", "timestamp"],
    )
    movies = pd.read_csv(folder / "movies.csv")
    movies.loc[len(movies)] = [77, "PLANTED", "War"]
    movies.to_csv(folder / "movies.csv", index=False)
    pd.concat([ratings, planted.drop_duplicates(["userId", "movieId"])]).to_csv(
        folder / "ratings.csv", index=False
    )
    after = inputs_of(load_movielens_rating(folder, 50))
    by_question = {key[1:]: value for key, value in after.items()}
    assert all(by_question[key[1:]] == value for key, value in before.items())
    assert not any("PLANTED" in text for value in after.values() for text in value[:2])


def test_lastfm_counts_tags_on_training_events_alone(tmp_path):
    folder = write_lastfm(tmp_path / "fm")
    task = load_lastfm_tagging(folder, 50)
    before = inputs_of(task)
    assert task.test
    assert all(len(item.history) >= 1 and item.history[-1].time < item.time for item in task.test)
    assert set(task.test[0].labels) == {"rock", "pop", "jazz"}
    # a tag that only the last month of every user knows: it is no label, and no input changes
    rows = pd.read_csv(folder / "user_taggedartists.dat", sep="\t")
    (folder / "tags.dat").write_bytes((folder / "tags.dat").read_bytes() + b"4\tPLANTED\n")
    last = rows.groupby("userID").tail(1)
    pd.concat([rows, last.assign(tagID=4)]).to_csv(folder / "user_taggedartists.dat", sep="\t", index=False)
    after = inputs_of(load_lastfm_tagging(folder, 50))
    assert "PLANTED" not in next(iter(after.values()))[2]
    assert after == before


def test_lastfm_asks_only_where_one_tag_answers(tmp_path):
    task = load_lastfm_tagging(write_lastfm(tmp_path / "fm"), 50)
    rows = pd.read_csv(tmp_path / "fm" / "user_taggedartists.dat", sep="\t")
    twice = rows.groupby(["userID", "artistID"]).tagID.nunique()
    twice = {(str(u), f"Artist {a}") for u, a in twice[twice > 1].index}
    for item in (*task.train, *task.validation, *task.test):
        assert not any(user == item.user and f"{artist}?" in item.input for user, artist in twice)


def test_made_tasks_refuse_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"ratings\.csv does not exist"):
        load_movielens_rating(tmp_path, 5)
    with pytest.raises(DataError, match=r"set data\.path"):
        load_task(TaskDataConfig(task="lastfm-tagging"))
    with pytest.raises(DataError, match="does not exist"):
        load_task(TaskDataConfig(task="LaMP-1", path=str(tmp_path / "no")))
