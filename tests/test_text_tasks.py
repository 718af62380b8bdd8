"""Formats of text tasks on tiny files written here, refusals, splits, and the planted answer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.door.tables import DataError
from recsys.text_tasks.dialogues import (
    assign_personas,
    load_empathetic,
    load_persona_chat,
    load_personal_reddit,
    load_synthetic_persona_chat,
    person_id,
)
from recsys.text_tasks.from_interactions import STARS, load_lastfm_tagging, load_movielens_rating
from recsys.text_tasks.instances import (
    Instance,
    Record,
    TextTask,
    context_text,
    divide_users,
    profile_text,
    retrieve,
    spread_sample,
)
from recsys.text_tasks.lamp import FORMATS, MOVIE_TAGS, load_lamp, load_longlamp
from recsys.text_tasks.load import TaskDataConfig, data_hash, load_task
from recsys.text_tasks.pens import load_pens

# -- worlds: small files in the published formats ----------------------------------------------------------------------


def write_movielens(folder: Path, n_users: int = 6, length: int = 20) -> Path:
    """Every user likes one genre (5 stars) and dislikes the other (1 star)."""
    folder.mkdir(exist_ok=True)
    movies = [(m, f"Film {m} (1990)", ("Comedy", "War")[m % 2]) for m in range(1, 31)]
    pd.DataFrame(movies, columns=["movieId", "title", "genres"]).to_csv(folder / "movies.csv", index=False)
    draw, rows = np.random.default_rng(0), []
    for user in range(1, n_users + 1):
        for place, movie in enumerate(draw.permutation(30)[:length] + 1):
            rows.append((user, movie, 5.0 if movie % 2 == user % 2 else 1.0, 1000 * user + 10 * place))
    pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"]).to_csv(
        folder / "ratings.csv", index=False
    )
    tags = [(1, 1, "funny", 1005)]
    pd.DataFrame(tags, columns=["userId", "movieId", "tag", "timestamp"]).to_csv(
        folder / "tags.csv", index=False
    )
    return folder


def write_lastfm(folder: Path, n_users: int = 6, length: int = 12) -> Path:
    """Every user gives one tag of their own and sometimes a second."""
    folder.mkdir(exist_ok=True)
    names = ["rock", "pop", "jazz"]
    artists = "id\tname\turl\tpictureURL\n" + "".join(f"{a}\tArtist {a}\tu\tp\n" for a in range(1, 31))
    (folder / "artists.dat").write_text(artists)
    tags = "tagID\ttagValue\n" + "".join(f"{number}\t{name}\n" for number, name in enumerate(names, 1))
    (folder / "tags.dat").write_bytes(tags.encode("latin-1"))
    rows = []
    for user in range(1, n_users + 1):
        for place in range(length):
            tag, artist = user % 3 + 1, (user + 2 * place) % 30 + 1
            rows.append((user, artist, tag, 1, place % 12 + 1, 2008 + place // 12))
            if place % 6 == 2:
                rows.append((user, artist, tag % 3 + 1, 1, place % 12 + 1, 2008 + place // 12))
    pd.DataFrame(rows, columns=["userID", "artistID", "tagID", "day", "month", "year"]).to_csv(
        folder / "user_taggedartists.dat", sep="\t", index=False
    )
    return folder


def write_persona_csv(folder: Path, n: int = 40) -> Path:
    """Dialogues between persona 2i and persona 2i + 1: a pair that no other dialogue shares."""
    folder.mkdir(exist_ok=True)
    rows = []
    for talk in range(n):
        first, second = (f"I have {k} cats.\nMy town is T{k}." for k in (2 * talk, 2 * talk + 1))
        turns = "User 1: Hi!\nUser 2: Hello, who are you?\nUser 1: I have cats.\nUser 2: How many\ncats?"
        rows.append((first, second, turns))
    columns = ["user 1 personas", "user 2 personas", "Best Generated Conversation"]
    path = folder / "Synthetic-Persona-Chat_test.csv"
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


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


# -- the instance -------------------------------------------------------------------------------------------------------


def test_an_instance_refuses_the_future_and_a_foreign_label():
    past = (Record("a", 1), Record("b", 4))
    with pytest.raises(ValueError, match="strictly before"):
        Instance("i", "u", "q", "x", time=4, history=past)
    with pytest.raises(ValueError, match="order"):
        Instance("i", "u", "q", "x", history=past[::-1])
    with pytest.raises(ValueError, match="none of the labels"):
        Instance("i", "u", "q", "x", labels=("y",))
    assert Instance("i", "u", "q", "x", time=5, history=past).history == past


def test_retrieval_ranks_by_bm25_and_falls_back_to_the_latest():
    history = tuple(
        Record(text, t)
        for t, text in enumerate(["red car", "blue boat", "red red boat", "green hill", "a tree"])
    )
    instance = Instance("i", "u", "where is the red boat", "x", time=9, history=history)
    assert [record.text for record in retrieve(instance, 1)] == ["red red boat"]
    assert [record.time for record in retrieve(instance, 3)] == [0, 1, 2]  # oldest first
    nothing = Instance("i", "u", "zebra", "x", time=9, history=history)
    assert [record.time for record in retrieve(nothing, 2)] == [3, 4]
    assert retrieve(instance, 0) == []
    assert len(retrieve(instance, 99)) == 5


def test_what_is_shown_and_what_the_vector_reads():
    history = (Record("one", 1), Record("two", 2), Record("three", 3))
    instance = Instance("i", "u", "say two", "x", time=9, history=history, persona="I sail.\nI cook.")
    assert "I sail. I cook." in context_text(instance, 1)
    assert context_text(instance, 1).endswith("- two")
    assert profile_text(instance, 2) == "I sail.\nI cook.\ntwo\nthree"
    other = Instance("j", "u", "another question", "y", time=9, history=history, persona="I sail.\nI cook.")
    assert profile_text(other, 2) == profile_text(instance, 2)  # of a person, not of a question


def test_a_sample_takes_everybody_once_before_anybody_twice():
    instances = [Instance(f"{u}-{k}", f"u{u}", "q", "x") for u in range(5) for k in range(u + 1)]
    chosen = spread_sample(instances, 5, 0, "test")
    assert {item.user for item in chosen} == {f"u{u}" for u in range(5)}
    assert spread_sample(instances, 5, 0, "test") == chosen
    assert spread_sample(instances, None, 0, "test") == tuple(instances)
    users = [f"u{k}" for k in range(10)]
    half = divide_users(users, 0.5, 0, "k")
    assert len(half) == 5
    assert divide_users(users[::-1], 0.5, 0, "k") == half


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


# -- dialogues ----------------------------------------------------------------------------------------------------------


def test_synthetic_persona_chat_splits_by_persona(tmp_path):
    task = load_synthetic_persona_chat(write_persona_csv(tmp_path / "chat"), 0, context_turns=2)
    people = [{item.user for item in getattr(task, role)} for role in ("train", "validation", "test")]
    assert all(people)
    assert not people[0] & people[1]
    assert not people[0] & people[2]
    assert not people[1] & people[2]
    reply = next(item for item in task.train if item.target == "How many cats?")  # a turn over two lines
    assert reply.input.endswith("You: Hello, who are you?\nOther: I have cats.")
    assert "cats." in reply.persona
    assert reply.persona not in reply.input
    assert not task.notes  # who talks to each other stays together: nothing is lost
    talks = {item.id.rsplit("-", 1)[0] for item in task.train}
    assert not talks & {item.id.rsplit("-", 1)[0] for item in task.test}


def test_shares_count_people_and_groups_stay_together():
    pairs = [(f"a{k}", f"b{k}") for k in range(50)]
    roles = assign_personas(pairs, seed=3)
    assert all(roles[first] == roles[second] for first, second in pairs)
    assert np.bincount(list(roles.values())).tolist() == [80, 10, 10]
    assert np.bincount(list(assign_personas([(f"a{k}", "") for k in range(10)], 0).values())).tolist() == [
        8,
        1,
        1,
    ]


def test_a_dialogue_across_splits_is_in_none(tmp_path):
    """One persona talks to everybody: only dialogues inside its own split are left."""
    path = write_persona_csv(tmp_path / "chat")
    table = pd.read_csv(path)
    table["user 1 personas"] = "I am everywhere."
    table.to_csv(path, index=False)
    names = [person_id(text) for text in table["user 2 personas"]]
    roles = assign_personas([(person_id("I am everywhere."), name) for name in names], 0)
    assert set(roles.values()) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"has no (train|test) instance"):
        load_synthetic_persona_chat(path, 0, 3)


def test_persona_chat_json_and_text_agree(tmp_path):
    dialogues, lines = [], []
    for k in range(30):
        persona = [f"i have {k} dogs .", "i like tea ."]
        utterances = [
            {"history": ["hi there"], "candidates": ["wrong", f"hello from {k}"]},
            {"history": ["hi there", f"hello from {k}", "bye now"], "candidates": ["wrong", "bye !"]},
        ]
        dialogues.append({"personality": persona, "utterances": utterances})
        lines += [f"1 your persona: {persona[0]}", f"2 your persona: {persona[1]}"]
        lines += [f"3 hi there\thello from {k}\t\twrong|hello from {k}", "4 bye now\tbye !\t\twrong|bye !"]
    (tmp_path / "chat.json").write_text(json.dumps({"train": dialogues[:20], "valid": dialogues[20:]}))
    (tmp_path / "chat.txt").write_text("\n".join(lines) + "\n")
    found = [load_persona_chat(tmp_path / name, 0, 3) for name in ("chat.json", "chat.txt")]
    for role in ("train", "validation", "test"):
        first, second = ({(i.user, i.input, i.target, i.persona) for i in getattr(t, role)} for t in found)
        assert first == second != set()
    last = next(item for item in found[0].train if item.target == "bye !")
    assert last.input.splitlines()[-3].startswith("Other: hi there")
    assert last.input.splitlines()[-2].startswith("You: hello from")
    assert last.input.splitlines()[-1] == "Other: bye now"


def test_dialogue_files_are_refused_by_place(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_text("1 your persona: i sail .\n2 no tab here\n")
    with pytest.raises(DataError, match=r"bad\.txt:2: expected persona lines"):
        load_persona_chat(bad, 0, 3)
    (tmp_path / "bad.json").write_text(json.dumps({"train": [{"utterances": []}]}))
    with pytest.raises(DataError, match=r"train dialogue 1: no list 'personality'"):
        load_persona_chat(tmp_path / "bad.json", 0, 3)
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(DataError, match=r"half\.json:1: not JSON"):
        load_persona_chat(tmp_path / "half.json", 0, 3)
    path = tmp_path / "x.csv"
    pd.DataFrame({"user 1 personas": ["a"], "user 2 personas": ["b"]}).to_csv(path, index=False)
    with pytest.raises(DataError, match="Best Generated Conversation"):
        load_synthetic_persona_chat(path, 0, 3)


def test_personal_reddit(tmp_path):
    path = tmp_path / "reddit.jsonl"
    rows = [
        {
            "personality": {"age": k, "city_country": "Oslo"},
            "question_asked": f"What of {k}?",
            "response": f"well {k}",
        }
        for k in range(20)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    task = load_personal_reddit(path, 0)
    item = task.train[0]
    assert item.persona.startswith("age: ")
    assert "city country: Oslo" in item.persona
    assert item.target.startswith("well")
    assert len({i.user for i in (*task.train, *task.validation, *task.test)}) == 20
    rows[1]["personality"] = "none"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=r"reddit\.jsonl:2: 'personality' is not an object"):
        load_personal_reddit(path, 0)


def test_empathetic_conversation(tmp_path):
    (tmp_path / "articles_adobe_AMT.csv").write_text('article_id,text\n1,"A flood, they say"\n')
    header = "conversation_id\tarticle_id\tessay_id\tessay\tspeaker_id\tgender\tage\tpersonality_openness\n"
    rows = [f"{k}\t1\t{k}\tI feel sad {k}\t{k % 15}\tunknown\t{20 + k % 15}\t5.5\n" for k in range(30)]
    path = tmp_path / "WASSA23_essay_level_with_labels_train.tsv"
    path.write_text(header + "".join(rows))
    task = load_empathetic(tmp_path, 0)
    item = task.train[0]
    assert "A flood, they say" in item.input
    assert item.target.startswith("I feel sad")
    assert "gender" not in item.persona  # unknown is nothing that is known
    assert "personality openness: 5.5" in item.persona
    assert not {i.user for i in task.train} & {i.user for i in task.test}
    path.write_text(header + rows[0].replace("\t1\t", "\t9\t", 1))
    with pytest.raises(DataError, match=r":2: article_id 9 is not in"):
        load_empathetic(tmp_path, 0)


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


def test_the_hash_follows_the_bytes(tmp_path):
    config = TaskDataConfig(task="movielens-rating", path=str(write_movielens(tmp_path / "ml")))
    before = data_hash(config)
    (tmp_path / "ml" / "ratings.csv").write_text(
        (tmp_path / "ml" / "ratings.csv").read_text() + "1,2,3.0,9\n"
    )
    assert data_hash(config) != before


@pytest.mark.skipif("PRELUDE_DATA" not in os.environ, reason="needs the data sets")
def test_the_real_sets_load():
    data = Path(os.environ["PRELUDE_DATA"])
    for task, folder in (
        ("lastfm-tagging", "hetrec2011-lastfm-2k"),
        ("synthetic-persona-chat", "synthetic-persona-chat"),
    ):
        found = load_task(TaskDataConfig(task=task, path=str(data / folder), test_instances=50))
        assert len({item.user for item in found.test}) >= 20
