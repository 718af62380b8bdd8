"""TAP-PER against plain loops: P_q and its biases, who trains what, what it may read, and its records on disk."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llm.methods.base import save_personalizer
from llm.methods.combination import CombinationConfig
from llm.methods.stage2 import World, batch_rows, lm_loss
from llm.methods.tap_per import Histories, TapPer, TapPerConfig, segment_softmax
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.contexts import RecordSearch
from llm.prompts.reading import Reading
from llm.stage1.records import TEXT_TOKENS, open_record_vectors, write_record_vectors
from recsys.artifacts.user_rows import Person, forget, load_user_rows
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT
from recsys.embeddings.leaks import Events, LeakError, check_planted_answer
from recsys.recommender import Request

DAY = 86_400


SMALL = {"length": 2, "scorer_hidden": 6, "projection_hidden": 5, "bridge_rank": 2}


def catalogue(n: int = 30) -> Catalogue:
    kinds = ["alpha", "beta", "gamma"]
    ids = np.array([f"i{item}" for item in range(n)], object)
    return Catalogue(
        ids, [f"title {item}" for item in range(n)], {"kind": [[kinds[i % 3]] for i in range(n)]}
    )


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory) -> World:
    """What TapPer reads of a world, around the tiny model."""
    builder = PromptBuilder(
        PromptConfig(recent_items=2), catalogue(), tiny.encode, tiny.bos_id, tiny.item_tokens
    )
    path = tmp_path_factory.mktemp("records") / "records.safetensors"
    write_record_vectors(path, tiny, builder, chunk=7)
    parts = SimpleNamespace(
        model=tiny, builder=builder, records=open_record_vectors(path), search=RecordSearch(catalogue()),
        embedding_norm=float(tiny.inner.get_input_embeddings().weight.norm(dim=1).mean()),
        dataset=SimpleNamespace(n_users=6), trained_users=np.ones(6, bool), path=path,
    )  # fmt: skip
    return cast(World, parts)


def request(user: int | None, length: int, seed: int = 0, query: str | None = None) -> Request:
    generator = np.random.default_rng([seed, length])
    times = np.sort(generator.integers(0, 50 * DAY, length))
    history = generator.integers(0, 30, length)
    return Request(f"r{user}-{length}", user, 50 * DAY + 7, history, times, query)


RAGGED = [request(0, 3), request(1, 0), request(2, 11), request(None, 1), request(3, 0, query="a beta title")]


def scrambled(config: TapPerConfig, world: World, seed: int = 1) -> TapPer:
    """Every trained number away from its start, λ too."""
    module = TapPer(config, world, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def plain_p_q(module: TapPer, world: World, one: Request) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 4–7 for one request, record by record, in float64: α and P_q."""
    p_q, vectors = module.p_q, world.records.double().numpy() / module.scale
    weight = {name: tensor.detach().double().numpy() for name, tensor in p_q.state_dict().items()}

    def gelu(x):
        return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()

    said = [vectors[item] for item in one.history[-2:]]
    if one.query:
        table = world.model.inner.get_input_embeddings().weight.detach().double().numpy()
        said.append(np.mean([table[token] for token in world.model.encode(one.query)], 0) / module.scale)
    query = np.mean(said, 0) if said else np.zeros(vectors.shape[1])
    scores = []
    for place, (item, time) in enumerate(zip(one.history, one.history_times, strict=True)):
        z = vectors[item]
        x = np.concatenate([query, z, query - z, query * z])
        hidden = gelu(weight["first.weight"] @ x + weight["first.bias"])
        score = float((weight["second.weight"] @ hidden + weight["second.bias"])[0])
        score -= float(weight.get("time_decay", 0)) * np.log(1 + (one.time - time) / DAY)
        score -= float(weight.get("order_decay", 0)) * np.log(1 + len(one.history) - place)
        scores.append(score)
    alpha = np.exp(scores) / np.sum(np.exp(scores)) if scores else np.zeros(0)
    summed = sum(
        (a * vectors[i] for a, i in zip(alpha, one.history, strict=True)), np.zeros(vectors.shape[1])
    )
    inner = gelu(weight["inner.weight"] @ summed + weight["inner.bias"])
    return alpha, weight["outer.weight"] @ inner + weight["outer.bias"]


@pytest.mark.parametrize("decays", [(True, True), (True, False), (False, True), (False, False)])
def test_p_q_is_a_plain_loop_over_ragged_and_empty_histories(world, decays):
    config = TapPerConfig(
        user_state=False, bridge=False, time_decay=decays[0], order_decay=decays[1], **SMALL
    )
    module = scrambled(config, world)
    with torch.no_grad():
        query, z, histories = module.read(RAGGED)
        alpha = module.p_q.attention(query, z, histories).split(histories.lengths.tolist())
        prefix = module.condition(RAGGED).prefix
    for row, one in enumerate(RAGGED):
        weights, expected = plain_p_q(module, world, one)
        np.testing.assert_allclose(alpha[row].numpy(), weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(prefix[row].flatten().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_without_a_single_record_is_the_mlp_of_zeros(world):
    module = scrambled(TapPerConfig(user_state=False, bridge=False, **SMALL), world)
    prefix = module.condition([RAGGED[1], RAGGED[4]]).prefix
    zeros = module.p_q.outer(torch.nn.functional.gelu(module.p_q.inner.bias))
    torch.testing.assert_close(prefix.flatten(1), zeros.expand(2, -1), rtol=1e-5, atol=1e-6)
    prefix.sum().backward()  # and it can be trained on


def test_temporal_biases_by_hand(world):
    """Equal records, 1 and 3 days ago: with λ_t = 2 and λ_o = 0 the odds are (2 / 4)²; with λ_o = 1 alone, 3 / 2."""
    one = Request("r", 0, 3 * DAY, np.array([5, 5]), np.array([0, 2 * DAY]))
    module = scrambled(TapPerConfig(user_state=False, bridge=False, **SMALL), world)
    parts = module.read([one])
    assert parts[2].days.tolist() == [3.0, 1.0]
    assert parts[2].order.tolist() == [2.0, 1.0]
    with torch.no_grad():
        module.p_q.time_decay.fill_(2.0)
        module.p_q.order_decay.fill_(0.0)
        old, new = module.p_q.attention(*parts).tolist()
        assert old / new == pytest.approx((2 / 4) ** 2, rel=1e-4)
        module.p_q.time_decay.fill_(0.0)
        module.p_q.order_decay.fill_(1.0)
        old, new = module.p_q.attention(*parts).tolist()
        assert old / new == pytest.approx(2 / 3, rel=1e-4)
        assert module.p_q.attention(*parts, biased=False).tolist() == pytest.approx([0.5, 0.5])


def test_segment_softmax_is_torchs_within_each_segment():
    lengths = torch.tensor([0, 4, 1, 0, 7, 0])
    scores = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 30
    scores.requires_grad_(True)
    row = torch.repeat_interleave(torch.arange(6), lengths)
    ours = segment_softmax(scores, row, lengths)
    theirs = torch.cat([part.softmax(0) for part in scores.split(lengths.tolist())])
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(12, generator=torch.Generator().manual_seed(1))
    (a,), (b,) = (
        torch.autograd.grad((out * weights).sum(), scores, retain_graph=True) for out in (ours, theirs)
    )
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert len(segment_softmax(scores[:0], row[:0], torch.tensor([0, 0]))) == 0


def test_a_record_at_its_own_moment_is_refused():
    fine = Request("r", 0, 10, np.array([1]), np.array([9]))
    Histories.of([fine])
    with pytest.raises(ValueError, match="reaches its own moment"):
        Histories.of([fine, replace(fine, time=9)])


# -- what it may read -------------------------------------------------------------------------------------------


def _dataset(events: Events) -> Dataset:
    order = np.lexsort((events.times, events.users))
    queries = pd.DataFrame({"user": [], "item": [], "timestamp": [], "query": []})
    return Dataset(
        np.array([f"u{user}" for user in range(6)], object), catalogue(), events.users[order], events.items[order],
        events.times[order], np.ones(len(order), np.float32), np.full(len(order), FIT, np.int8), queries,
    )  # fmt: skip


@pytest.mark.parametrize("prefilter", [None, 2])
def test_the_planted_answer_changes_nothing_that_p_q_sees(world, prefilter):
    module = scrambled(TapPerConfig(prefilter=prefilter, **SMALL), world)
    generator = np.random.default_rng(0)
    events = Events(
        np.repeat(np.arange(3), 9), generator.integers(0, 30, 27), generator.integers(0, 60 * DAY, 27)
    )
    moment = int(np.sort(events.times[events.users == 1])[5])

    def build(events: Events, peek: int = 0) -> dict[str, np.ndarray]:
        items, times = _dataset(events).before(1, moment + peek)
        one = Request("r", 1, moment + peek, items, times)
        with torch.no_grad():
            query, z, histories = module.read([one])
            prefix = module.condition([one]).prefix
        return {"query": query.numpy(), "records": z.numpy(), "days": histories.days.numpy(),
                "order": histories.order.numpy(), "prefix": prefix.numpy()}  # fmt: skip

    check_planted_answer(build, events, user=1, time=moment, target=7)
    with pytest.raises(LeakError):
        check_planted_answer(lambda events: build(events, peek=1), events, user=1, time=moment, target=7)


def test_the_prefilter_keeps_what_bm25_finds_with_its_own_gaps(world):
    """Asked for a beta, the two betas of the history stay (items 4 and 10), each as far back as it was."""
    one = Request("r", 0, 10, np.array([4, 3, 10, 6, 9]), np.arange(5), query="beta")
    kept = Histories.of([one, RAGGED[1]], world.search, 2)
    assert kept.items.tolist() == [4, 10]
    assert kept.order.tolist() == [5.0, 3.0]
    assert kept.lengths.tolist() == [2, 0]
    assert len(Histories.of([one], world.search, None).items) == 5


def test_a_store_that_was_filled_earlier_ends_there(world):
    one = Request("r", 0, 10, np.array([4, 3, 10]), np.array([1, 5, 8]))
    cut = Histories.of([one, replace(one, user=1), replace(one, user=None)], until=np.array([8, 5]))
    assert cut.lengths.tolist() == [2, 1, 3]
    assert cut.order.tolist() == [2, 1, 1, 3, 2, 1]
    assert cut.days[1].item() == pytest.approx(5 / DAY)


# -- what is trained --------------------------------------------------------------------------------------------


def test_gradients_reach_its_own_parameters_only_and_the_starved_rows_of_p_u_get_none(world):
    module = TapPer(TapPerConfig(user_drop=0.0, **SMALL), world, 0).train()
    reading = Reading(world.model, world.builder, module)
    lm_loss(reading, RAGGED, np.array([1, 2, 3, 4, 5])).backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    # B of the bridge starts at zero, so A has no gradient yet; every other part has one at the first step
    assert without == [name for name, _ in module.named_parameters() if name.startswith("bridge.a.")]
    assert module.p_u.grad.abs().sum(1).bool().tolist() == [True, True, True, True, False, False]
    assert all(p.grad is None for p in world.model.parameters())
    assert not any(name.startswith("model") for name in module.state_dict())


def test_dropped_users_train_p_q_alone(world):
    config = TapPerConfig(user_drop=0.5, **SMALL)
    module = scrambled(config, world).train()
    alone = scrambled(config.model_copy(update={"user_state": False}), world)
    alone.p_q.load_state_dict(module.p_q.state_dict())
    people = [request(user % 6, 3, seed=user) for user in range(200)]
    prefix, only_p_q = module.condition(people).prefix, alone.condition(people).prefix
    dropped = (prefix == only_p_q).flatten(1).all(1)
    assert 0.35 < dropped.float().mean() < 0.65
    module.step = 1
    assert (module.condition(people).prefix == only_p_q).flatten(1).all(1).tolist() != dropped.tolist()
    prefix.sum().backward()
    users = np.array([one.user for one in people])
    counts = np.bincount(users[~dropped.numpy()], minlength=6)
    torch.testing.assert_close(module.p_u.grad, torch.tensor(counts).float()[:, None].expand_as(module.p_u))
    assert not (module.eval().condition(people).prefix == only_p_q).flatten(1).all(1).any()


def test_a_user_without_a_row_is_answered_by_p_q_and_unknown_without_it(world):
    module = scrambled(TapPerConfig(**SMALL), world)
    strangers = [request(None, 3), request(6, 3)]  # nobody, and a user integer behind the table
    assert not module.user_states(strangers).any()
    no_records = scrambled(TapPerConfig(records=False, **SMALL), world)
    assert no_records.condition([RAGGED[0], *strangers]).known.tolist() == [True, False, False]
    no_records.later[6] = torch.ones(no_records.p_u.shape[1])
    condition = no_records.condition(strangers)
    assert condition.known.tolist() == [False, True]
    assert (condition.prefix[1] == 1).all()


# -- rows of those alone who were trained ----------------------------------------------------------------------


@pytest.mark.parametrize("records", [True, False])
def test_rows_of_trained_users_alone_are_those_that_everybodys_table_gives(world, tmp_path, records):
    """Three steps of AdamW with decay: the same bytes for users 1 and 3, who were trained, and a third of the numbers."""
    people = [request(user, 3, seed=user) for user in (1, 3, 1)]
    modules = {}
    for stored in ("all", "trained"):
        config = TapPerConfig(records=records, stored=stored, **SMALL)
        users = None if stored == "all" else np.array([1, 3])
        module = modules[stored] = TapPer(config, world, 0, users).train()
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1)
        for step in range(3):
            module.step = step
            optimizer.zero_grad()
            lm_loss(Reading(world.model, world.builder, module), people, np.array([1, 2, 3])).backward()
            optimizer.step()
        slots = sum(slot.numel() for slot in optimizer.state[module.p_u].values() if slot.ndim)
        assert slots == 2 * module.p_u.numel()  # the optimizer's state follows
    whole, few = modules["all"].eval(), modules["trained"].eval()
    assert 3 * few.p_u.numel() == whole.p_u.numel()
    assert torch.equal(few.p_u, whole.p_u[[1, 3]])
    assert torch.equal(few.condition(people).prefix, whole.condition(people).prefix)
    stranger = [request(2, 3)]
    assert not few.user_states(stranger).any()
    assert few.have_rows([*people, *stranger, request(None, 1)]).tolist() == [True, True, True, False, False]
    save_personalizer(few, tmp_path / "few.safetensors")
    stored_rows = load_user_rows(tmp_path / "few.safetensors")
    assert stored_rows.users.tolist() == [1, 3]
    again = TapPer(few.config, world, 0)
    again.load_state_dict(load_file(tmp_path / "few.safetensors"))
    assert torch.equal(again.eval().condition(people).prefix, few.condition(people).prefix)
    forget(tmp_path / "few.safetensors", Person("u3", 3), tmp_path / "less.safetensors")
    again.load_state_dict(load_file(tmp_path / "less.safetensors"))
    assert again.have_rows(people).tolist() == [True, False, True]
    assert torch.equal(again.user_states(people)[0], few.user_states(people)[0])
    again.load_state_dict(
        load_file(tmp_path / "less.safetensors") | {"p_u": few.p_u[:0], "users": few.users[:0]}
    )
    assert not again.user_states(people).any()  # everybody is forgotten
    assert not again.start_states(np.array([1])).any()


def test_users_of_the_steps_batches_get_rows(world):
    """Of 20 instances of 6 users, 2 steps of 2 meet at most 4 people."""
    users = np.arange(20) % 6

    class Train(SimpleNamespace):
        def __len__(self) -> int:
            return 20

    train = Train(events=np.arange(20), weights=None)
    settings, data = SimpleNamespace(batch=2, steps=2), SimpleNamespace(n_users=6, users=users)
    parts = SimpleNamespace(**vars(world) | {"train": train, "settings": settings, "dataset": data})
    module = TapPerConfig(stored="trained", **SMALL).new(cast(World, parts), 0)
    met = np.concatenate([batch_rows(20, 2, step, 0) for step in range(2)])
    assert module.users.tolist() == sorted(set(users[met].tolist()))
    assert len(module.p_u) <= 4
    with pytest.raises(ValueError, match="stored: trained"):
        CombinationConfig(parts=[{"method": "e2p"}, {"method": "tap_per", "stored": "trained"}])


# -- records on disk --------------------------------------------------------------------------------------------


def test_records_are_mean_embeddings_in_a_file_that_safetensors_maps(world):
    with safe_open(str(world.path), framework="pt") as file:
        assert list(file.keys()) == ["records"]
        records = file.get_tensor("records")
    assert records.shape == (30, world.model.hidden_size)
    texts, table = world.builder.catalogue.texts(), world.model.inner.get_input_embeddings().weight
    for item in (0, 6, 7, 29):  # the ends, and both sides of a chunk's border
        text = table[world.model.encode(texts[item])[:TEXT_TOKENS]]
        codes = world.model.rows.input[world.builder.item_tokens[item] - world.model.text_size]
        torch.testing.assert_close(records[item], torch.cat([text, codes]).mean(0), rtol=1e-5, atol=1e-6)
