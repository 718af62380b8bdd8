"""One PEFT per user: against PEFT itself, beside others and alone, killed and resumed, and read from disk."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from llm.decoding.scoring import log_probs_of
from llm.methods.per_user.adapters import ROWS, Ia3Form, LoraForm, PromptForm, UserTable
from llm.methods.per_user.oppu import IA3_LAYERS, OppuConfig
from llm.methods.per_user.training import Course, Diaries, Lessons, groups, train_group, train_users
from llm.methods.stage2 import World, lm_loss
from llm.prompts.reading import Reading
from llm.stage1.model import load_adapted
from recsys.data.splits import PERSONALIZE, TEST
from recsys.training import loop
from serving.answering.methods import Methods
from tests.support.requests import make_requests


@pytest.fixture(scope="module")
def world(small_run) -> World:
    config, run = small_run
    return Methods(run, config).world


def course_of(world: World, kind: str, **changed) -> Course:
    layers = world.model.updates.layers
    form = {
        "lora": lambda: LoraForm(layers(("q_proj", "v_proj")), 3, 6.0),
        "ia3": lambda: Ia3Form(layers(IA3_LAYERS)),
        "prompt": lambda: PromptForm(2, world.model.hidden_size, world.embedding_norm),
    }[kind]()
    return Course(**({"form": form, "learning_rate": 1e-2, "epochs": 2, "batch": 2, "seed": 5} | changed))


def some_diaries(world: World, counts=(5, 1, 6, 2)) -> Diaries:
    """The first users, with so many events each."""
    whole = Diaries.of(world.dataset, world.train.events)
    mine = [whole.events[whole.offsets[user] :][:count] for user, count in enumerate(counts)]
    return Diaries.of(world.dataset, np.concatenate(mine))


def peft_run(world: World, small_run, kind: str, course: Course, lessons: Lessons):
    """An ordinary run for one user: PEFT's modules, torch's AdamW, one loss after the other. -> the trained model."""
    config, run = small_run
    model = load_adapted(run, config.adapt)
    lora = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    ia3 = IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.inner = get_peft_model(model.inner, lora if kind == "lora" else ia3)
    if kind == "lora":
        rows = course.form.start(course.seed)[None]
        for name, (a, _) in course.form.pairs(rows).items():  # the same draw; PEFT's B is zero as ours
            model.inner.get_base_model().get_submodule(name).lora_A.default.weight.data.copy_(a[0])
    trained = [parameter for parameter in model.inner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=course.learning_rate, weight_decay=0.0)
    reading = Reading(model, world.builder)
    for step in range(int(lessons.steps(course)[0])):
        at = lessons.batch(0, course, step)
        loss = lm_loss(reading, [lessons.requests[index] for index in at], lessons.targets[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_oppu_equals_an_ordinary_peft_run(world, small_run, tmp_path, kind):
    """Also beside other users, whose runs are longer and shorter than this one's."""
    course, diaries = course_of(world, kind), some_diaries(world)
    everybody = train_group(kind, world, course, Lessons(world, diaries, None), tmp_path / "all")
    user = 0
    alone = Lessons(world, diaries.some(np.array([user])), None)
    by_itself = train_group(kind, world, course, alone, tmp_path / "one")
    torch.testing.assert_close(everybody[[user]], by_itself, atol=1e-5, rtol=0)
    model = peft_run(world, small_run, kind, course, alone)
    base = model.inner.get_base_model()
    if kind == "lora":
        for name, (a, b) in course.form.pairs(everybody[[user]]).items():
            layer = base.get_submodule(name)
            torch.testing.assert_close(a[0], layer.lora_A.default.weight.data, atol=1e-5, rtol=0)
            torch.testing.assert_close(b[0], 2 * layer.lora_B.default.weight.data, atol=1e-5, rtol=0)
            assert layer.lora_B.default.weight.abs().max() > 1e-3  # it has learned
    else:
        gains = zip(course.form.layers, everybody[user].split(course.form._sizes), strict=True)
        for name, gain in gains:
            layer = base.get_submodule(name.replace("up_proj", "down_proj"))
            theirs = layer.ia3_l["default"].data.reshape(-1)
            torch.testing.assert_close(gain, theirs, atol=1e-5, rtol=0)
            assert (theirs - 1).abs().max() > 1e-3
    table = UserTable([(diaries.users, {ROWS: everybody})])
    ours = log_probs_of(course.reading(world, table), alone.requests, alone.targets)
    with torch.no_grad():
        theirs = log_probs_of(Reading(model, world.builder), alone.requests, alone.targets)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    plain = log_probs_of(Reading(world.model, world.builder), alone.requests, alone.targets)
    assert np.abs(ours - plain).max() > 1e-3


def test_soft_tokens_equal_a_plain_loop_beside_others_too(world, tmp_path):
    course, diaries = course_of(world, "prompt"), some_diaries(world)
    everybody = train_group("all", world, course, Lessons(world, diaries, None), tmp_path)
    for user in range(4):
        lessons = Lessons(world, diaries.some(np.array([user])), None)
        soft = torch.nn.Parameter(course.form.start(course.seed).view(1, 2, -1).clone())
        optimizer = torch.optim.AdamW([soft], lr=course.learning_rate, weight_decay=0.0)
        for step in range(int(lessons.steps(course)[0])):
            optimizer.zero_grad()
            losses = []
            for index in lessons.batch(0, course, step):
                prompt = world.builder.with_soft_tokens(lessons.prompts[index], 2)
                condition = course.form.condition(soft.view(1, -1), np.ones(1, bool), diaries.users[:1])
                target = lessons.targets[[index]]
                losses.append(-world.model.item_log_probs([prompt], target, condition)[0])
            torch.stack(losses).mean().backward()
            optimizer.step()
        torch.testing.assert_close(everybody[user].view_as(soft), soft.detach(), atol=1e-5, rtol=0)


def test_every_epoch_shows_each_own_instance_once(world):
    course, lessons = course_of(world, "lora", batch=4), Lessons(world, some_diaries(world), None)
    assert lessons.steps(course).tolist() == [4, 2, 4, 2]
    for user, count in enumerate((5, 1, 6, 2)):
        per_epoch = -(-count // 4)
        epochs = [
            np.concatenate(
                [lessons.batch(user, course, epoch * per_epoch + part) for part in range(per_epoch)]
            )
            for epoch in range(2)
        ]
        own = np.arange(lessons.offsets[user], lessons.offsets[user + 1])
        assert all(sorted(epoch) == own.tolist() for epoch in epochs)
    assert any(
        not np.array_equal(lessons.batch(user, course, 0), lessons.batch(user, course, 2)) for user in (0, 2)
    )


def test_a_user_learns_from_their_own_late_events_only(world):
    diaries = OppuConfig().diaries(world)
    data = world.dataset
    assert (data.roles[diaries.events] == PERSONALIZE).all()
    owners = np.repeat(diaries.users, diaries.counts)
    assert (data.users[diaries.events] == owners).all()
    lessons = Lessons(world, diaries.some(np.arange(3)), None)
    for request in lessons.requests:
        assert (request.history_times < request.time).all()
    latest = Diaries.of(data, world.train.events, at_most=2)
    for user in range(3):
        own = diaries.events[diaries.offsets[user] : diaries.offsets[user + 1]]
        assert latest.events[latest.offsets[user] : latest.offsets[user + 1]].tolist() == own[-2:].tolist()


def test_groups_keep_to_the_budget_and_alike_histories_stand_together(world):
    course, diaries = course_of(world, "lora", batch=100), some_diaries(world, (5, 1, 6, 2, 3))
    assert [group.tolist() for group in groups(world, course, diaries, 1)] == [[2], [0], [4], [3], [1]]
    assert [group.tolist() for group in groups(world, course, diaries, 1 << 40)] == [[0, 1, 2, 3, 4]]
    one = 6 * 4 * course.form.size  # bytes of the row's copies; the instances come on top
    for budget in (2 * one, 1 << 22, 1 << 23, 1 << 24):
        found = groups(world, course, diaries, budget)
        assert sorted(np.concatenate(found).tolist()) == [0, 1, 2, 3, 4]
        assert all(len(group) * one <= budget for group in found)


def test_a_training_killed_inside_and_between_groups_ends_in_the_same_bytes(world, tmp_path, monkeypatch):
    course, diaries = course_of(world, "lora", epochs=7), some_diaries(world, (5, 1))
    whole = train_users("whole", world, course, diaries, 1, tmp_path / "whole", quiet=True)
    assert len(whole) == 2  # a budget of a byte: everybody alone
    save, count = loop._save, 0

    class Killed(Exception):
        pass

    def save_then_die(*arguments):
        nonlocal count
        save(*arguments)
        count += 1
        if count % 2 == 1:
            raise Killed

    monkeypatch.setitem(loop.fit.__kwdefaults__, "checkpoint_every_s", 0.0)
    monkeypatch.setattr(loop, "_save", save_then_die)
    kills = 0
    while True:
        try:
            resumed = train_users("killed", world, course, diaries, 1, tmp_path / "killed", quiet=True)
            break
        except Killed:
            kills += 1
    assert kills == 3  # after 20 of 21 steps of the first, after its last, and after the last of the second
    for one, other in zip(whole, resumed, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("kind", ["lora", "ia3", "prompt"])
def test_a_user_without_an_adapter_gets_the_base_model_beside_users_with_one(world, kind):
    course = course_of(world, kind)
    row = course.form.start(0) + 0.3 * torch.randn(
        course.form.size, generator=torch.Generator().manual_seed(1)
    )
    reading = course.reading(world, UserTable([(np.array([1]), {ROWS: row[None]})]))
    requests = make_requests(4, n_items=60)
    requests[3] = replace(requests[3], user=None)
    items = np.arange(20, 24)
    plain = log_probs_of(Reading(world.model, world.builder), requests, items)
    ours = log_probs_of(reading, requests, items)
    np.testing.assert_allclose(ours[[0, 2, 3]], plain[[0, 2, 3]], atol=1e-5)
    assert abs(ours[1] - plain[1]).max() > 1e-3
    cold = [requests[index] for index in (0, 2, 3)]
    assert np.array_equal(log_probs_of(reading, cold, items[:3]),
                          log_probs_of(Reading(world.model, world.builder), cold, items[:3]))  # fmt: skip
    assert reading.personalizer.per_user_parameters == course.form.size
    assert reading.row_bytes == 4 * course.form.size


def test_admitting_a_user_trains_what_the_run_trained(world, small_run):
    """The run's own user, forgotten and admitted again: the same adapter; nobody else has one."""
    config, run = small_run
    method = config.personalize.method("oppu_lora")
    report = run.read_json("personalize", "personalize.json")["methods"]["oppu_lora-0"]
    values = report["pilot_validation_log_likelihood"]
    assert values[f"{report['learning_rate']}, {report['epochs']} epochs"] == max(values.values())
    assert len(values) == 2
    reading = method.load(world, 0)
    before = reading.personalizer.table
    mine = method.diaries(world).some(np.array([3]))
    admitted = method.admitted(world, reading, mine.events).personalizer.table
    assert admitted.users.tolist() == [3]
    torch.testing.assert_close(admitted.take(mine.users)[0], before.take(mine.users)[0], atol=1e-5, rtol=0)
    start = LoraForm(world.model.updates.layers(("q_proj", "v_proj")), 2, 16.0)
    assert report["per_user_parameters"] == start.size == 2 * 2 * (64 + 64 + 64 + 32)
    assert (admitted.take(mine.users)[0] - start.start(0)).abs().max() > 1e-4
    method.admit(world, reading, mine.events)
    with pytest.raises(ValueError, match="own events"):
        method.admit(world, reading, mine.events[:0])


def test_on_top_of_the_runs_mt_lora_a_newcomer_gets_mt_lora(world, small_run):
    config, _ = small_run
    requests = [replace(request, user=None) for request in make_requests(3, n_items=60)]
    items = np.arange(3)
    ours = log_probs_of(config.personalize.method("oppu_ia3").load(world, 0), requests, items)
    theirs = log_probs_of(config.personalize.method("mt_lora").load(world, 0), requests, items)
    plain = log_probs_of(Reading(world.model, world.builder), requests, items)
    assert np.array_equal(ours, theirs)
    assert not np.allclose(ours, plain, atol=1e-4)


def test_held_out_users_learn_from_what_came_before_their_first_test_event(world):
    data = replace(world.dataset, user_groups=np.where(np.arange(40) < 2, "random", "warm").astype(object))
    settings = world.settings.model_copy(update={"held_out_users": True})
    other = replace(world, dataset=data, settings=settings)
    method = OppuConfig(key="oppu")
    newcomers = method.newcomers(other)
    assert newcomers.users.tolist() == [0, 1]
    for place, user in enumerate((0, 1)):
        own = newcomers.events[newcomers.offsets[place] : newcomers.offsets[place + 1]]
        first = data.events(TEST)[data.users[data.events(TEST)] == user][0]
        assert own.tolist() == list(range(data.offsets[user], first))
        assert (data.times[own] < data.times[first]).all()
    assert method.newcomers(replace(world, dataset=data)) is None  # not asked for
    assert method.newcomers(replace(world, settings=settings)) is None  # nobody is held out


@pytest.mark.parametrize("key", ["oppu_lora", "per_pcs"])
def test_adapters_of_held_out_users_move_nobody_elses_bytes(world, small_run, tmp_path, key):
    """Trained within the stage: files of their own, read with the others'."""
    config, _ = small_run
    groups = np.where(np.arange(40) == 7, "ood", "warm").astype(object)
    other = replace(world, dataset=replace(world.dataset, user_groups=groups))
    method = config.personalize.method(key)
    made = {}
    for held_out in (False, True):
        other.settings = other.settings.model_copy(update={"held_out_users": held_out})
        some = method.model_copy(update={"learning_rates": (1e-2,)})
        folder = tmp_path / str(held_out)
        folder.mkdir()
        some.train(other, 0, folder, folder / "checkpoint", folder / "pilots")
        made[held_out] = {path.name: path.read_bytes() for path in (folder / f"{key}-0").iterdir()}
    assert {name for name in made[True] if "newcomers" not in name} == set(made[False])
    assert all(made[True][name] == written for name, written in made[False].items())
    (new,) = (name for name in made[True] if "newcomers" in name)
    again = tmp_path / "again"  # a later method was killed: this one is done and only hands its files over
    again.mkdir()
    some.train(other, 0, again, folder / "checkpoint", folder / "pilots")
    assert {path.name: path.read_bytes() for path in (again / f"{key}-0").iterdir()} == made[True]
    table = UserTable.open([tmp_path / "True" / f"{key}-0" / new])
    assert table.users.tolist() == [7]
