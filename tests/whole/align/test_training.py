"""What the stage `align` trains on: instances, targets, references and steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llm.align.align import DRAWS, Alignment, labelled_world, load_aligned
from llm.align.objectives import kl_baseline, kto_loss
from llm.align.targets import (
    Labelled,
    LabelledWorld,
    Likelihood,
    Reference,
    rotated,
    target_log_probs,
)
from llm.decoding.scoring import list_log_probs_of
from llm.methods.stage2 import World, batch_rows
from recsys.engagement.shown_lists import GENERATOR, GENERATOR_VALIDATION
from tests.support.alignment import FRESH

# -- instances ----------------------------------------------------------------------------------------------------


def test_instances_are_of_their_part_with_the_query_and_without_who_has_no_vector(world):
    lists, train = world.shown, world.train
    indices = lists.of(GENERATOR)
    cold = [index for index in indices if not len(lists.request(index, world.dataset).history)]
    assert len(cold) == 1
    assert train.left_out == 5
    known = [index for index in indices if index not in cold]
    flat = [
        (f"q{index}", int(item), bool(label))
        for index in known
        for item, label in zip(*lists.shown(index), strict=True)
    ]
    assert flat == [
        (request.request_id, int(items[0]), bool(label))
        for request, items, label in zip(train.requests, train.lists, train.labels, strict=True)
    ]
    assert train.facts() == {
        "requests": len(known), "desirable": int(train.labels.sum()), "undesirable": int((~train.labels).sum()),
        "without_a_vector": 5,
    }  # fmt: skip
    words = bytes(token for token in world.builder.prompt(train.requests[0]) if token < 256).decode()
    assert f"Query: {train.requests[0].query}" in words
    for request, items in zip(train.requests, train.lists, strict=True):
        assert request.available(items).all()
        assert (request.history_times < request.time).all()
    others = {request.request_id for request in world.validation.requests}
    assert others <= {f"q{index}" for index in lists.of(GENERATOR_VALIDATION)}
    assert (
        world.trained_users.tolist()
        == np.isin(np.arange(world.dataset.n_users), [request.user for request in train.requests]).tolist()
    )


def test_a_list_is_desirable_if_more_than_half_of_it_was_engaged_with(world):
    lists = world.shown
    whole = Labelled(world.dataset, lists, lists.of(GENERATOR), world.users, "list")
    for request, items, label in zip(whole.requests, whole.lists, whole.labels, strict=True):
        shown, engaged = lists.shown(int(request.request_id[1:]))
        assert items.tolist() == shown.tolist()
        assert label == (engaged.sum() > len(engaged) / 2)
    assert whole.left_out == 1
    even = replace(lists, offsets=np.arange(0, len(lists.items) + 1, 3)[: len(lists) + 1], items=lists.items[: 3 * len(lists)],
                   labels=np.array([True, False, False] * len(lists)))  # fmt: skip
    assert not Labelled(world.dataset, even, even.of(GENERATOR), world.users, "list").labels.any()


def test_a_list_with_an_item_twice_is_refused_by_name(world):
    lists = world.shown
    index = int(lists.of(GENERATOR)[3])
    items = lists.items.copy()
    items[lists.offsets[index] + 1] = items[lists.offsets[index]]
    twice = replace(lists, items=items)
    with pytest.raises(ValueError, match=f"shown list {index} has item"):
        Labelled(world.dataset, twice, twice.of(GENERATOR), world.users, "list")
    Labelled(world.dataset, twice, twice.of(GENERATOR), world.users, "item")


def test_a_part_without_anything_engaged_with_is_refused(world):
    none = LabelledWorld.around(
        world, world.settings, replace(world.shown, labels=np.zeros(len(world.shown.labels), bool)), "item"
    )
    with pytest.raises(
        ValueError, match="'generator' of the shown lists has no item that a user with a vector"
    ):
        _ = none.train


@pytest.mark.parametrize("target", ["item", "list"])
def test_a_step_of_kto_is_the_formula_on_log_probabilities(world, tmp_path, target):
    """The loss of step 3, put together from single scores: reference with the same prompt, KL pairs rotated by one."""
    work = Alignment(FRESH, LabelledWorld.around(world, FRESH, world.shown, target), tmp_path)
    (row,) = FRESH.rows
    reading, module = work._fresh(row, 0)
    objective = work._objective(row, work.reference(row))
    some = work.world.train
    rows = batch_rows(len(some), FRESH.batch, 3, 0)
    picked = some.only(rows)
    plain = work.plain(row)
    assert plain.personalizer is None
    ours, count = objective.loss(reading, 3, 0)
    assert count == len(rows)

    def scores(reading, requests, lists):
        return torch.tensor(
            [float(target_log_probs(reading, [r], [i])) for r, i in zip(requests, lists, strict=True)]
        )

    pairs, moved = rotated(picked.requests, picked.lists)
    with torch.no_grad():
        z0 = kl_baseline(scores(reading, pairs, moved), scores(plain, pairs, moved))
        expected = kto_loss(
            scores(reading, picked.requests, picked.lists), scores(plain, picked.requests, picked.lists),
            torch.from_numpy(picked.labels), z0, FRESH.beta, 1.5, 0.5,
        )  # fmt: skip
    assert float(ours.detach()) == pytest.approx(float(expected), abs=1e-5)
    ours.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in world.model.parameters())


def test_the_reference_of_a_snapshot_gives_the_snapshot_no_log_ratio(aligned, small_run, settings, tmp_path):
    own = labelled_world(World.load(aligned, small_run[0].adapt, settings), settings)
    work = Alignment(settings, own, tmp_path)
    snapshot = load_aligned(own, settings, settings.row("e2p_lm"), 0)
    some = own.validation
    values = list_log_probs_of(snapshot, some.requests, some.lists)
    known = work.reference(settings.row("near")).log_probs("validation", 0)
    np.testing.assert_allclose(values, known, atol=1e-5)
    plain = work.reference(settings.row("e2p_kto")).log_probs("validation", 0)
    assert np.abs(values - plain.numpy()).max() > 1e-2
    # kept: what is on disk is what is read, and it is not computed again
    (path,), (other,) = (tmp_path.glob(f"reference-{name}-validation-*") for name in ("plain", "e2p_lm-0"))
    path.write_bytes(other.read_bytes())
    again = Alignment(settings, own, tmp_path).reference(settings.row("e2p_kto"))
    assert torch.equal(again.log_probs("validation", 0), known)


def test_the_reference_scores_only_what_the_steps_come_to(world, settings, tmp_path):
    plain, n = settings.rows[0].trained.reading(world, None), len(world.train)
    short, whole = (
        Reference(world, lambda _: plain, lambda _: "plain", tmp_path, steps) for steps in (3, 10**6)
    )
    some = np.concatenate([batch_rows(n, settings.batch, step, 4) for step in range(3)])
    assert len(some) == 3 * settings.batch < n
    values = short.log_probs("train", 4).numpy()
    assert np.flatnonzero(~np.isnan(values)).tolist() == sorted(some)
    np.testing.assert_allclose(whole.log_probs("train", 4)[some], values[some], atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2
    whole.log_probs("train", 5)  # the same instances in another order
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("target", ["item", "list"])
def test_lm_trains_on_what_was_engaged_with_alone(world, settings, target):
    some_world = LabelledWorld.around(world, settings, world.shown, target)
    objective, plain = Likelihood(some_world), settings.rows[0].trained.reading(world, None)
    train, held = (
        part.only(np.flatnonzero(part.labels)) for part in (some_world.train, some_world.validation)
    )
    some = train.only(batch_rows(len(train), settings.batch, 2, 0))
    expected = -target_log_probs(plain, some.requests, some.lists).mean()
    loss, count = objective.loss(plain, 2, 0)
    assert float(loss) == pytest.approx(float(expected))
    assert count == len(some)
    values = target_log_probs(plain, held.requests, held.lists)
    assert objective.value(plain, 0) == pytest.approx(float(values.mean()), abs=1e-5)


def test_the_watch_warns_of_a_collapsed_row(world, tmp_path, capsys):
    """Only two items are left to draw where there were sixty: entropy and distinct draws fall, and it is said."""
    work = Alignment(FRESH, world, tmp_path)
    (row,) = FRESH.rows
    plain = work.plain(row)
    wide = work.watch(plain)
    assert wide["distinct_share"] > 5 / DRAWS
    assert wide["entropy"] > 2 * np.log(2)
    work.watched = [replace(request, allow=np.array([3, 4])) for request in work.watched]
    work._watches = {"plain": wide}
    told = work._beside_reference(row, 0, plain, work.reference(row))
    assert told["collapsed"]
    assert told["entropy"] < np.log(2) + 1e-6
    assert told["distinct_share"] <= 2 / DRAWS
    out = capsys.readouterr().out
    assert "align: warning: E2P (KTO), seed 0, is collapsing: entropy" in out
    assert "distinct share" in out
