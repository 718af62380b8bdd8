"""What differs between a configuration and what a stage was made from: by name, both values, and the way back."""

from __future__ import annotations

import pytest

from recsys.artifacts.paths import RunError
from recsys.artifacts.settings import NOT_EXPORTED, differences, refuse

METHODS = [{"key": "e2p", "width": 8}, {"key": "p2p", "encoder": "minilm", "summaries": "a.parquet"}]


def told(then, now, **options):
    return [(one.setting, one.then, one.now) for one in differences("s", then, now, **options)]


def test_each_difference_by_its_dotted_name():
    then = {"a": 1, "b": {"c": [1, 2], "d": None}, "methods": METHODS}
    assert told(then, then) == []
    assert told(then, then | {"a": 2, "b": {"c": [2, 1], "d": 0}}) == [
        ("s.a", 1, 2), ("s.b.c", [1, 2], [2, 1]), ("s.b.d", None, 0)
    ]  # fmt: skip
    other = [METHODS[0] | {"width": 9}, METHODS[1]]
    assert told(then, then | {"methods": other}) == [("s.methods[e2p].width", 8, 9)]
    assert told(then, then | {"methods": METHODS[:1]}) == [("s.methods[keys]", ["p2p"], [])]
    assert told(then, then | {"methods": METHODS[::-1]}) == [
        ("s.methods[keys]", ["e2p", "p2p"], ["p2p", "e2p"])
    ]
    assert told(then, then | {"methods": None}) == [("s.methods", METHODS, None)]


def test_a_setting_that_one_side_lacks_is_one_unless_only_what_is_written_counts():
    assert [one[0] for one in told({"a": 1}, {"b": 1})] == ["s.a", "s.b"]
    assert told({"a": 1}, {"b": 1}, whole=False) == []
    assert told({"a": 1}, {"a": 2, "b": 1}, whole=False) == [("s.a", 1, 2)]


def test_a_number_is_not_its_text_and_one_is_one():
    assert told({"a": 1, "b": 1}, {"a": "1", "b": 1.0}) == [("s.a", 1, "1")]


def test_an_export_may_say_less_and_nothing_else():
    then = {"seeds": [3, 4], "generators": ["a", "b"], "methods": METHODS, "text_encoder": "/models/own"}
    less = {
        "seeds": [3],
        "generators": [],
        "methods": [METHODS[1] | {"summaries": "x"}],
        "text_encoder": NOT_EXPORTED,
    }
    assert told(then, less, narrowed=True) == []
    assert told(then, then | {"methods": []}, narrowed=True) == []
    assert len(told(then, less)) == 5
    for key, value in (
        ("seeds", [4]), ("seeds", [3, 5]), ("generators", ["c"]), ("methods", [{"key": "new"}]),
        ("methods", [METHODS[0] | {"width": 9}]), ("text_encoder", "/elsewhere"), ("methods", "e2p"),
    ):  # fmt: skip
        assert told(then, then | {key: value}, narrowed=True), (key, value)


def test_the_way_back_is_said_for_a_shell():
    found = differences("adapt", {"a": 1, "b": "it's"}, {"a": 2, "b": "x"})
    with pytest.raises(RunError) as caught:
        refuse(found, "runs/my run", exported=False)
    text = str(caught.value)
    assert "adapt.a was 1 when stage 'adapt' was made, and is 2" in text
    assert """prelude prepare 'runs/my run' --set adapt.a=1 --set 'adapt.b="it'"'"'s"'""" in text
    assert "prelude adapt 'runs/my run'" in text
    refuse([], "run", exported=False)


def test_where_a_stage_runs_is_not_what_it_is():
    then, now = ({"backbone": {"device": device, "name": "x"}} for device in ("cuda", "cpu"))
    assert differences("adapt", then, now) == []
    assert differences("other", then, now)
