"""Instances of a text task: what they refuse, what is retrieved and shown for them, how they are sampled."""

from __future__ import annotations

import pytest

from recsys.text_tasks.instances import (
    Instance,
    Record,
    context_text,
    divide_users,
    profile_text,
    retrieve,
    spread_sample,
)

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
