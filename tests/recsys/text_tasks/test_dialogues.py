"""Dialogues: formats on tiny files written here, splits by persona, refusals by place."""

from __future__ import annotations

import json

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
from tests.support.text_files import write_persona_csv

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
