"""Five real users side by side: what the run leaves of them, and that the report shows it."""

from __future__ import annotations

import json

import pytest

from recsys.artifacts.user_rows import Person, forget, forget_everyone, rows_of
from recsys.data.dataset import Dataset
from recsys.data.splits import TEST
from serving.report.people import people_section
from serving.stages.people import LISTED, PEOPLE, SHOWN_OF_HISTORY


@pytest.fixture(scope="module")
def people(small_run):
    return small_run[1].read_json("evaluate", "people.json")


def test_they_are_five_users_of_the_test_with_what_they_had_and_what_came_next(people, small_run):
    data = Dataset.load(small_run[1])
    assert len(set(people["users"])) == PEOPLE
    assert people["user_id"] == [str(data.user_ids[user]) for user in people["users"]]
    assert people["events"] == sorted(people["events"])
    for at, user in enumerate(people["users"]):
        titles = [
            data.catalogue.titles[item] for item in data.items[data.offsets[user] : data.offsets[user + 1]]
        ]
        before = people["events"][at]
        assert people["target"][at] == titles[before]
        assert people["history"][at] == titles[:before][::-1][:SHOWN_OF_HISTORY]
        assert data.roles[data.offsets[user] + before] == TEST


def test_each_row_has_a_list_of_the_catalogue(people, small_run):
    titles = set(Dataset.load(small_run[1]).catalogue.titles)
    assert list(people["rows"].values()) == ["sasrec", "no_context", "e2p"]
    for lists in people["lists"]:
        assert len(lists) == len(people["rows"])
        assert all(len(set(some)) == LISTED and set(some) <= titles for some in lists)


def test_the_page_shows_them(people, small_run):
    section = people_section(people)
    assert section is not None
    page = (small_run[1].path / "report.html").read_text()
    for person in section["people"]:
        assert f"{person['name']} <span" in page
        assert [column["name"] for column in person["columns"]][1:] == list(people["rows"])
        hits = sum(one["is_target"] for column in person["columns"][1:] for one in column["items"])
        assert hits == sum(
            person["target"] in some for some in people["lists"][section["people"].index(person)]
        )
    assert people_section(None) is None
    assert people_section(people | {"users": []}) is None


def test_a_person_can_be_taken_out_of_it(people, small_run, tmp_path):
    path, number = small_run[1].artifact("evaluate", "people.json"), people["users"][2]
    person = Person(people["user_id"][2], number)
    assert rows_of(path, person)["target"] == [people["target"][2]]
    forget(path, person, tmp_path / "people.json")
    left = json.loads((tmp_path / "people.json").read_text())
    assert left["users"] == [user for user in people["users"] if user != number]
    assert left["rows"] == people["rows"]
    assert {len(value) for name, value in left.items() if name != "rows"} == {PEOPLE - 1}
    assert len(people_section(left)["people"]) == PEOPLE - 1
    forget_everyone(path, tmp_path / "nobody.json")
    assert people_section(json.loads((tmp_path / "nobody.json").read_text())) is None
