"""PER-PCS on a run: gates against a plain loop, assembly layer by layer, and nothing trained for a target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from llm.backbone.conditions import Condition, LowRank
from llm.decoding.scoring import log_probs_of
from llm.methods.per_user.adapters import ROWS, LoraForm, UserTable
from llm.methods.per_user.pieces import (
    PIECES,
    WEIGHTS,
    Assembled,
    GateForm,
    Pool,
)
from llm.methods.per_user.training import Course, Diaries, Lessons, train_group
from llm.methods.stage2 import World
from llm.prompts.reading import Reading
from recsys.training import loop
from serving.answering.methods import Methods
from tests.support.requests import make_requests

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(small_run) -> World:
    config, run = small_run
    return Methods(run, config).world


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def form_of(world: World, rank: int = 2) -> LoraForm:
    return LoraForm(world.model.updates.layers(("q_proj", "v_proj")), rank, 2.0 * rank)


def pool_of(world: World, sharers: int, seed: int = 0) -> Pool:
    """A pool of random pieces, strong enough that later layers' inputs depend on them, and random gates."""
    form = form_of(world)
    gate_form = GateForm(form, UserTable([]))
    pairs = form.pairs(random(sharers, form.size, seed=seed) * 0.3)
    gates = gate_form.split(random(sharers, gate_form.size, seed=seed + 1))
    return Pool(np.arange(10, 10 + sharers), form, pairs, gates)


def test_gates_train_as_a_plain_loop_does_and_the_adapters_stay(world, tmp_path):
    """One gate a layer by hooks on the model, torch's AdamW, one user at a time; two users side by side here."""
    form, model = form_of(world), world.model
    whole = Diaries.of(world.dataset, world.train.events)
    diaries = Diaries.of(
        world.dataset, np.concatenate([whole.events[:3], whole.events[whole.offsets[1] :][:2]])
    )
    adapters = random(2, form.size) * 0.3
    table = UserTable([(diaries.users, {ROWS: adapters})])
    course = Course(GateForm(form, table), 0.05, 2, 2, seed=3)
    ours = train_group("gates", world, course, Lessons(world, diaries, None), tmp_path)
    for user in range(2):
        lessons = Lessons(world, diaries.some(np.array([user])), None)
        gates = {name: torch.nn.Parameter(torch.zeros(n_in)) for name, (n_in, _) in form.layers.items()}
        pairs, base = form.pairs(adapters[[user]]), model.inner

        def hook(name, pairs=pairs, gates=gates):
            a, b = pairs[name]
            return lambda module, inputs, y: (
                y + torch.sigmoid(inputs[0] @ gates[name])[..., None] * (inputs[0] @ a[0].T @ b[0].T)
            )

        handles = [base.get_submodule(name).register_forward_hook(hook(name)) for name in gates]
        optimizer = torch.optim.AdamW(gates.values(), lr=0.05, weight_decay=0.0)
        try:
            for step in range(int(lessons.steps(course)[0])):
                at = lessons.batch(0, course, step)
                loss = -model.item_log_probs(
                    [lessons.prompts[index] for index in at], lessons.targets[at]
                ).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        finally:
            for handle in handles:
                handle.remove()
        theirs = torch.cat(list(gates.values())).detach()
        torch.testing.assert_close(ours[user], theirs, atol=1e-4, rtol=0)
        assert theirs.abs().max() > 0.05
    torch.testing.assert_close(adapters, random(2, form.size) * 0.3, atol=0, rtol=0)


def slow_assembly(world: World, pool: Pool, sequences, k: int):
    """Users one by one, layers one by one: a whole forward pass for each, with what earlier layers got applied."""
    model, found = world.model, []
    for mine in sequences:
        updates: dict[str, tuple] = {}
        for name, (a, b) in pool.pairs.items():
            seen = []
            handle = model.inner.get_submodule(name).register_forward_hook(
                lambda module, inputs, out, seen=seen: seen.append(inputs[0][0])
            )
            for sequence in mine:
                model.hidden(model.pack([sequence]), Condition(updates=updates))
            handle.remove()
            tokens = torch.cat(seen)
            scores = []
            for gate in pool.gates[name]:
                cosines = [float(gate @ x / (gate.norm() * x.norm())) for x in tokens]
                scores.append(np.sqrt(len(gate)) * np.mean(cosines))
            best = np.argsort(scores)[::-1][:k]
            weights = np.exp(np.array(scores)[best])
            weights /= weights.sum()
            delta = sum(float(w) * b[i] @ a[i] for i, w in zip(best, weights, strict=True))
            updates[name] = (LowRank(torch.eye(a.shape[2]), delta),)
            found.append((best, weights))
    layers = len(pool.pairs)
    return (
        np.array([piece for piece, _ in found]).reshape(-1, layers, k),
        np.array([weight for _, weight in found]).reshape(-1, layers, k),
    )


@torch.no_grad()
def test_assembly_equals_a_slow_loop_layer_by_layer(world):
    pool = pool_of(world, sharers=5)
    sequences = [
        [world.builder.prompt(request) for request in make_requests(4, 60, seed=seed)[1:]] for seed in (1, 2)
    ]
    sequences[1] = sequences[1][:1]
    flat, owner = [one for mine in sequences for one in mine], np.array([0, 0, 0, 1])
    pieces, weights = pool.assemble(world.model, flat, owner, k=2)
    slow_pieces, slow_weights = slow_assembly(world, pool, sequences, 2)
    np.testing.assert_array_equal(pieces.numpy(), slow_pieces)
    np.testing.assert_allclose(weights.numpy(), slow_weights, atol=1e-4)
    assert weights.std() > 0.01
    # the second layer's choice rests on what the first layer got
    weak = Pool(pool.sharers, pool.form, {n: (a, b * 0) for n, (a, b) in pool.pairs.items()}, pool.gates)
    assert (weak.assemble(world.model, flat, owner, k=2)[1][:, 2:] - weights[:, 2:]).abs().max() > 1e-3


@torch.no_grad()
def test_sharers_pick_their_own_pieces_when_gates_are_planted(world):
    """A gate that is the mean direction of its sharer's own inputs, less the direction that all share: by
    Cauchy-Schwarz nobody else's can score higher."""
    pool = pool_of(world, sharers=3)
    weak = {name: (a, b * 0) for name, (a, b) in pool.pairs.items()}  # so that inputs do not move
    prompts = [world.builder.prompt(request) for request in make_requests(5, 60, seed=4)[2:]]
    gates = {}
    for name in pool.pairs:
        seen: list[torch.Tensor] = []
        handle = world.model.inner.get_submodule(name).register_forward_hook(
            lambda module, inputs, out, seen=seen: seen.append(
                torch.nn.functional.normalize(inputs[0][0], dim=1).mean(0)
            )
        )
        for prompt in prompts:
            world.model.hidden(world.model.pack([prompt]))
        handle.remove()
        inputs = torch.stack(seen)
        common = torch.nn.functional.normalize(inputs.mean(0), dim=0)
        gates[name] = inputs - (inputs @ common)[:, None] * common
    planted = Pool(pool.sharers, pool.form, weak, gates)
    pieces, weights = planted.assemble(world.model, prompts, np.arange(3), k=2)
    assert (pieces[:, :, 0] == torch.arange(3)[:, None]).all()
    assert (weights[:, :, 0] > weights[:, :, 1]).all()


def test_a_request_is_read_with_its_users_pieces_and_others_with_the_base(world):
    pool = pool_of(world, sharers=3)
    layers = len(pool.pairs)
    named = torch.tensor([[10, 12]] * layers)[None]
    weights = torch.tensor([[0.75, 0.25]] * layers)[None]
    table = UserTable([(np.array([1]), {PIECES: named, WEIGHTS: weights})])
    personalizer = Assembled(pool, table, 2, CPU)
    requests = make_requests(3, 60)
    items = np.arange(20, 23)
    ours = log_probs_of(Reading(world.model, world.builder, personalizer), requests, items)
    plain = log_probs_of(Reading(world.model, world.builder), requests, items)
    np.testing.assert_allclose(ours[[0, 2]], plain[[0, 2]], atol=1e-5)
    assert abs(ours[1] - plain[1]).max() > 1e-3
    deltas = {
        name: LowRank(torch.eye(a.shape[2]), 0.75 * b[0] @ a[0] + 0.25 * b[2] @ a[2])
        for name, (a, b) in pool.pairs.items()
    }
    prompt = world.builder.prompt(requests[1])
    with torch.no_grad():
        whole = Condition(updates={name: (delta,) for name, delta in deltas.items()})
        theirs = world.model.item_log_probs([prompt], items[[1]], whole, None)
    free = log_probs_of(
        Reading(world.model, world.builder, personalizer),
        [replace(requests[1], exclude=items[:0])],
        items[[1]],
    )
    np.testing.assert_allclose(free[0], theirs.numpy(), atol=1e-4)
    assert personalizer.per_user_parameters == 2 * 2 * layers
    assert personalizer.shared_parameters == 3 * (
        pool.form.size + sum(n for n, _ in pool.form.layers.values())
    )


def test_when_a_sharer_is_forgotten_the_others_pieces_carry_on(world):
    pool = pool_of(world, sharers=3)
    layers = len(pool.pairs)
    table = UserTable([(np.array([1]), {PIECES: torch.tensor([[[10, 12]] * layers]),
                                        WEIGHTS: torch.tensor([[[0.75, 0.25]] * layers])})])  # fmt: skip
    left = Pool(
        pool.sharers[1:], pool.form, {n: (a[1:], b[1:]) for n, (a, b) in pool.pairs.items()},
        {n: gate[1:] for n, gate in pool.gates.items()},
    )  # fmt: skip
    condition = Assembled(left, table, 2, CPU).condition(make_requests(2)[1:])
    for name, (a, b) in pool.pairs.items():
        (update,) = condition.updates[name]
        torch.testing.assert_close(update.b[0] @ update.a[0], b[2] @ a[2])


def test_the_run_trained_sharers_only_and_a_target_is_admitted_without_training(
    world, small_run, monkeypatch
):
    config, run = small_run
    method = config.personalize.method("per_pcs")
    reading = method.load(world, 0)
    adapters = reading.personalizer
    report = run.read_json("personalize", "personalize.json")["methods"]["per_pcs-0"]
    assert len(adapters.pool.sharers) == report["sharers"] <= 4
    assert report["users"] == 40
    assert report["per_user_parameters"] == adapters.per_user_parameters == 2 * 2 * 4
    assert np.isin(adapters.table.take(np.arange(40), PIECES)[0].numpy(), adapters.pool.sharers).all()
    weights = adapters.table.take(np.arange(40), WEIGHTS)[0]
    torch.testing.assert_close(weights.sum(2), torch.ones(40, 4))
    monkeypatch.setattr(loop, "fit", lambda *a, **k: pytest.fail("a target was trained"))
    mine = method.diaries(world).some(np.array([7]))
    admitted = method.admitted(world, reading, mine.events).personalizer.table
    assert admitted.users.tolist() == [7]
    assert torch.equal(admitted.take(mine.users, PIECES)[0], adapters.table.take(mine.users, PIECES)[0])
    torch.testing.assert_close(
        admitted.take(mine.users, WEIGHTS)[0], adapters.table.take(mine.users, WEIGHTS)[0], atol=1e-4, rtol=0
    )
    method.admit(world, reading, mine.events)


def test_files_say_whose_rows_they_are(small_run):
    _, run = small_run
    for name, tensors in (("pool", '["adapter", "gates"]'), ("users", '["pieces", "weights"]')):
        with safe_open(run.artifact("personalize", f"per_pcs-0/{name}.safetensors"), "pt") as file:
            assert file.metadata() == {"user_rows": tensors}
