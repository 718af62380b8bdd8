"""P2P: profiles by hand and from before t only, caches that change nothing, and generated adapters against PEFT's own forward."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, LoraModel, PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file

from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.sid_model import SidModel
from llm.decoding import draws
from llm.decoding.scoring import constraints_of, expected_hit_rate
from llm.decoding.session import PromptSession
from llm.methods.p2p import profiles
from llm.methods.p2p.hypernetwork import LoraGenerator
from llm.methods.p2p.method import P2P, P2PConfig
from llm.methods.p2p.profiles import ProfileText, ProfileVectors
from llm.methods.peft_export import export_adapter
from llm.methods.stage2 import lm_loss
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.contexts import RecordSearch, Summaries
from llm.prompts.reading import Reading
from llm.stage1.adapt import load_adapted
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT
from recsys.embeddings.leaks import Events, LeakError, check_planted_answer
from recsys.recommender import Request
from recsys.run import Run
from serving.answering.methods import Methods
from serving.cli import app
from serving.studies.p2p import analyse_p2p, training_parts
from tests.conftest import make_requests
from tests.test_prompts import dataset

KINDS = ("summary_and_records", "summary_only", "retrieved_only", "full_history", "shuffled")
DIM = 12


def catalogue() -> Catalogue:
    titles = [
        "Alien",
        "Fargo",
        "Heat",
        "Brazil",
        "Dune",
        "Solaris",
        "Gravity",
        "Contact",
        "Moon",
        "Sunshine",
        "Up",
        "Cars",
    ]
    genres = [["Horror", "Space"], ["Crime"], ["Crime"], ["Comedy"], ["Space"], ["Space"], ["Space"], ["Space"], ["Space"],
              ["Space"], ["Children"], []]  # fmt: skip
    return Catalogue(np.array([f"i{n}" for n in range(12)], object), titles, {"genres": genres})


def builder(**settings) -> PromptBuilder:
    settings = {"recent_items": 1, "profile_values": 1, "profile_titles": 2} | settings
    tokens = 1000 + np.arange(24).reshape(12, 2)
    return PromptBuilder(PromptConfig(**settings), catalogue(), lambda text: list(text.encode()), 256, tokens)


def maker(kind, k: int = 2, summaries=None, data: Dataset | None = None, **settings) -> ProfileText:
    some = data if data is not None else dataset()
    return ProfileText(kind, k, builder(**settings), RecordSearch(catalogue()), some, summaries)


def asks(history, query=None, user=0, time=100) -> Request:
    return Request("r", user, time, np.array(history, np.int64), np.arange(len(history)), query)


# -- profiles ---------------------------------------------------------------------------------------------------


def test_profiles_by_hand():
    request = asks([0, 1, 3, 2, 4], "crime in the snow")  # Dune is shown, and no query word is about it
    assert maker("summary_only").text(request) == "likes Crime; enjoyed Dune; Heat."
    records = maker("retrieved_only").text(request)
    assert records == "Heat (Crime); Fargo (Crime)"  # equal scores: the later first
    both = maker("summary_and_records").text(request)
    assert both == f"likes Crime; enjoyed Dune; Heat. {records}"
    assert maker("summary_and_records", k=0).text(request) == "likes Crime; enjoyed Dune; Heat."
    shuffled = maker("shuffled").text(request)
    assert shuffled != both
    assert sorted(shuffled.split()) == sorted(both.split())
    assert shuffled == maker("shuffled").text(request)
    full = maker("full_history").text(asks([0, 3, 11]))
    assert full == "Cars; Brazil (Comedy); Alien (Horror, Space)"
    assert replace(maker("full_history"), longest=2).text(asks([0, 3, 11])) == "Cars; Brazil (Comedy)"


def test_without_words_the_shown_items_are_the_query_and_no_answer():
    assert maker("retrieved_only", k=1).text(asks([1, 3, 2])) == "Fargo (Crime)"  # like Heat, which is shown
    assert maker("retrieved_only", k=1).text(asks([1, 3, 2], "heat")) == "Heat (Crime)"
    assert maker("retrieved_only").text(asks([1])) is None
    for kind in KINDS:
        assert maker(kind).text(asks([])) is None


def test_a_random_profile_is_another_users_of_the_same_moment():
    data = dataset()
    request = asks([0, 1], user=2, time=12)
    text = maker("random", k=0, data=data).text(request)
    others = {builder().profile(data.before(user, 12)[0]) for user in range(6) if user != 2}
    assert text in others
    assert text == maker("random", k=0, data=data).text(request)
    assert len({maker("random", k=0, data=data).text(replace(request, user=user)) for user in range(6)}) > 1
    assert maker("random", data=data).text(replace(request, time=0)) is None  # nobody has a past yet


def test_a_given_summary_counts_from_its_moment_on(tmp_path):
    data = dataset()
    given = Summaries([(0, 50, "an early one"), (0, 90, "a late one"), (0, 101, "one of the future")])
    assert maker("summary_only", summaries=given).text(asks([1], time=100)) == "a late one"
    assert maker("summary_only", summaries=given).text(asks([1], time=90)) == "a late one"
    assert maker("summary_only", summaries=given).text(asks([1], time=60)) == "an early one"
    assert maker("summary_only", summaries=given).text(asks([1], time=40)) == "likes Crime; enjoyed Fargo."
    keys = {
        maker("summary_only", summaries=given).key(asks([1], time=time)) for time in (40, 60, 89, 90, 100)
    }
    assert len(keys) == 3
    frame = pd.DataFrame({"user_id": ["u0", "u9"], "summary": ["words", "nobody's"], "timestamp": [5, 5]})
    frame.to_parquet(tmp_path / "s.parquet")
    assert Summaries.read(tmp_path / "s.parquet", data).at(0, 5) == "words"
    frame.drop(columns="timestamp").to_parquet(tmp_path / "s.parquet")
    with pytest.raises(ValueError, match="'timestamp' is missing"):
        Summaries.read(tmp_path / "s.parquet", data)
    with pytest.raises(ValueError, match="no such file"):
        Summaries.read(tmp_path / "nothing.parquet", data)


@pytest.mark.parametrize("kind", [*KINDS, "random"])
def test_the_planted_answer_changes_no_profile(kind):
    data = dataset()
    event = next(int(e) for e in data.events(3) if data.history_end[e] - data.offsets[data.users[e]] > 8)
    user, time = int(data.users[event]), int(data.times[event])

    def build(events, strict: bool = True):
        order = np.lexsort((events.times, events.users))
        zeros = np.zeros(len(order))
        made = Dataset(data.user_ids, data.catalogue, events.users[order], events.items[order], events.times[order],
                       zeros.astype(np.float32), zeros.astype(np.int8), data.queries)  # fmt: skip
        history, times = made.before(user, time if strict else time + 1)
        request = Request("r", user, time, history, times)
        texts = maker(kind, data=made)
        own = (
            {"own": history[:1]} if kind == "random" else {}
        )  # the control: its text is of another user's past
        return {"profile": np.array([texts.text(request) or ""]), "key": np.array([texts.key(request)])} | own

    events = Events(data.users, data.items, data.times)
    check_planted_answer(build, events, user, time, int(data.items[event]))
    with pytest.raises(LeakError):
        check_planted_answer(lambda some: build(some, strict=False), events, user, time, 11)


# -- vectors ----------------------------------------------------------------------------------------------------


def letters(texts) -> np.ndarray:
    """An encoder to count with: how often each of twelve letters occurs, at length 1."""
    counts = np.array([[text.count(letter) for letter in "aeioumnrstlc"] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)


def test_a_cache_changes_no_vector_and_keeps_to_its_budget():
    some = [
        asks([1, 2], "crime"),
        asks([1, 2], "space"),
        asks([0, 4]),
        asks([]),
        asks([1, 2], "crime", user=3),
    ]
    texts = maker("summary_and_records")
    plain = letters([texts.text(one) or "" for one in some])
    vectors = ProfileVectors(texts, letters, DIM, 1 << 20)
    for _ in range(2):
        made, known = vectors.vectors(some)
        assert known.tolist() == [True, True, True, False, True]
        np.testing.assert_array_equal(made.numpy(), plain)
    assert vectors.encoded == 3  # the same past and the same query are the same profile
    small = ProfileVectors(texts, letters, DIM, 2 * (4 * DIM + 128))
    for at in (0, 1, 2, 3, 4, 0, 1, 2, 3, 4):
        np.testing.assert_array_equal(small.vectors([some[at]])[0][0].numpy(), plain[at])
        assert len(small._kept) <= 2
    assert small.encoded > 3


def test_a_summary_is_the_users_alone_and_a_whole_profile_is_the_querys_too():
    crime, space, later = asks([1, 2], "crime"), asks([1, 2], "space"), asks([1, 2], time=200)
    whole, summary = maker("summary_and_records"), maker("summary_only")
    assert len({summary.key(one) for one in (crime, space, later)}) == 1
    assert len({whole.key(one) for one in (crime, space, later)}) == 3
    assert summary.key(asks([1, 2, 3])) != summary.key(crime)


def test_prepared_profiles_survive_a_kill_and_are_not_encoded_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "CHUNK", 2)
    some = [asks([1, 2]), asks([2]), asks([]), asks([0, 4]), asks([3, 4])]
    texts = maker("summary_only")
    first = ProfileVectors(texts, letters, DIM, 1 << 20)
    first.prepare(some[:4], tmp_path, "a")  # killed before the last chunk
    first.take_moments(some)
    second = ProfileVectors(texts, letters, DIM, 1 << 20)
    second.prepare(some, tmp_path, "b")
    assert (first.encoded, second.encoded) == (4, 1)
    plain = letters([texts.text(one) or "" for one in some])
    np.testing.assert_array_equal(second.vectors(some)[0].numpy(), plain)
    assert second.encoded == 1
    second.take_moments(some)
    with_past = plain[[0, 1, 3, 4]]
    np.testing.assert_allclose(second.moments[0].numpy(), with_past.mean(0), rtol=1e-6)
    spread = np.sqrt(np.square(with_past - with_past.mean(0)).mean())
    assert second.moments[1].item() == pytest.approx(spread)


# -- the hypernetwork -------------------------------------------------------------------------------------------


def fresh(model: SidModel, seed: int = 0) -> LoraGenerator:
    return LoraGenerator(model.updates.layers(("q_proj", "v_proj")), DIM, 3, 6.0, 10, 4, seed)


def awake(generator: LoraGenerator) -> LoraGenerator:
    """With B far from zero."""
    with torch.no_grad():
        for number, head in enumerate(generator.heads):
            head.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(number))
    return generator.requires_grad_(False)


def of(model: SidModel, generator: LoraGenerator) -> P2P:
    vectors = ProfileVectors(maker("summary_and_records"), letters, DIM, 1 << 20)
    return P2P(vectors, generator)


def prompts_and_requests(model: SidModel):
    lines = [b"He", b"History:", b"", b"a long prompt"]
    prompts = [[256, *line, *model.item_tokens[at].tolist()] for at, line in enumerate(lines)]
    requests = [replace(one, user=0, query=query, history=np.array(past, np.int64), history_times=np.arange(len(past)))
                for one, query, past in zip(make_requests(4), ("crime", None, "space", "heat"), ([1, 2, 3], [0, 4, 5], [1, 9, 4], [1, 2, 3]),
                                            strict=True)]  # fmt: skip
    return prompts, requests


def pefts(model: SidModel, condition, row: int, generator: LoraGenerator) -> SidModel:
    """The model with row `row`'s generated A and B inside PEFT's own LoRA layers."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    config = LoraConfig(r=generator.rank, lora_alpha=generator.rank, target_modules=["q_proj", "v_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = LoraModel(backbone.model, config, "one")
    for name, (update,) in condition.updates.items():
        layer = backbone.model.get_submodule(name)
        with torch.no_grad():
            layer.lora_A["one"].weight.copy_(update.a[row])
            layer.lora_B["one"].weight.copy_(update.b[row])
    backbone.model = wrapped.model.eval().requires_grad_(False)
    return SidModel(backbone, model.rows, model.trie).eval()


def test_batched_adapters_are_pefts_own_forward_for_each_user(tiny):
    """In the prompt pass, in the tree that draws, and merged into the weights."""
    generator = awake(fresh(tiny))
    prompts, requests = prompts_and_requests(tiny)
    condition = of(tiny, generator).condition(requests)
    packed = tiny.pack(prompts)
    ours = tiny.hidden(packed, condition).split(packed.layout.lengths.tolist())
    session = PromptSession(tiny, prompts, condition, constraints_of(tiny.trie, requests))
    items, values = draws.draw(session, requests, 6, seed=0)
    wanted = items[:, 0]
    scored = draws.score(session, wanted)[:, 0]
    plain = tiny.hidden(packed).split(packed.layout.lengths.tolist())
    for row, prompt in enumerate(prompts):
        theirs = pefts(tiny, condition, row, generator)
        hidden = theirs.inner(
            inputs_embeds=theirs.embed(theirs.pack([prompt]), None)[None], use_cache=False
        ).last_hidden_state[0]
        torch.testing.assert_close(ours[row], hidden, rtol=1e-4, atol=1e-5)
        assert (plain[row] - hidden).abs().max() > 1e-2
        own = constraints_of(tiny.trie, [requests[row]] * 6)
        log_p = theirs.item_log_probs([prompt] * 6, items[row], constraints=own).double().numpy()
        np.testing.assert_allclose(values[row], log_p, rtol=1e-4, atol=1e-4)
        assert scored[row] == pytest.approx(log_p[0], abs=1e-4)
        merged = load_backbone(BackboneConfig(name="tiny-random", device="cpu")).model
        with torch.no_grad():
            for name, (update,) in condition.updates.items():
                merged.get_submodule(name).weight += update.b[row] @ update.a[row]
            again = merged(inputs_embeds=tiny.embed(tiny.pack([prompt]), None)[None]).last_hidden_state[0]
        torch.testing.assert_close(ours[row], again, rtol=1e-4, atol=1e-5)
    first = condition.updates["layers.0.self_attn.q_proj"][0]
    assert not torch.allclose(first.b[0], first.b[1])
    torch.testing.assert_close(
        first.b[0] @ first.a[0], (first.b[3] @ first.a[3]), rtol=10, atol=10
    )  # same past, another query: near, and yet
    assert not torch.equal(first.b[0], first.b[3])


def test_the_hypernetwork_is_the_papers_formula():
    """[e ‖ E_mod ‖ E_dep] → MLP → Unflatten, layer by layer, with PyTorch's plain modules."""
    layers = {"layers.0.attn.q_proj": (6, 8), "layers.0.attn.v_proj": (6, 2), "layers.1.attn.q_proj": (6, 8),
              "layers.1.attn.v_proj": (6, 2)}  # fmt: skip
    generator = awake(LoraGenerator(layers, DIM, 3, 12.0, 10, 4, 0))
    generator.standardise(torch.full((DIM,), 0.5), torch.tensor(2.0))
    e = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1))
    made = generator(e, torch.tensor([True, True, False, True, True]))
    first = torch.cat([generator.of_profile.weight, generator.of_position], 1)
    for name, (n_in, n_out) in layers.items():
        module, depth = (0 if "q_proj" in name else 1), int(name[7])
        head = generator.heads[generator.shapes.index((n_in, n_out))]
        for row in range(5):
            phi = torch.cat([(e[row] - 0.5) / 2, generator.module[module], generator.depth[depth]])
            x = torch.nn.functional.gelu(first @ phi + generator.of_profile.bias)
            x = head(torch.nn.functional.gelu(generator.inner(x)))
            a, b = x[: 3 * n_in].view(3, n_in), x[3 * n_in :].view(n_out, 3) * 4.0
            (update,) = made[name]
            torch.testing.assert_close(update.a[row], a)
            torch.testing.assert_close(update.b[row], torch.zeros_like(b) if row == 2 else b)


def test_it_starts_as_no_context_and_yet_has_a_gradient(tiny):
    generator = fresh(tiny)
    personalizer = of(tiny, generator)
    prompts, requests = prompts_and_requests(tiny)
    packed = tiny.pack(prompts)
    condition = personalizer.condition(requests)
    assert torch.equal(tiny.hidden(packed, condition), tiny.hidden(packed))
    update = condition.updates["layers.1.self_attn.q_proj"][0]
    assert update.a.std().item() == pytest.approx((3 * 64) ** -0.5, rel=0.4)
    assert not update.b.any()
    reading = Reading(tiny, small_builder(tiny), personalizer)
    lm_loss(reading, requests, np.array([1, 2, 3, 4])).backward()
    for head, (n_in, _) in zip(generator.heads, generator.shapes, strict=True):
        of_b = 3 * n_in
        assert head.weight.grad[of_b:].abs().max() > 0
        assert not head.weight.grad[:of_b].any()  # B = 0: A has none yet
    # after one step everything has
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    lm_loss(reading, requests, np.array([1, 2, 3, 4])).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def small_builder(model: SidModel) -> PromptBuilder:
    return PromptBuilder(PromptConfig(recent_items=1), catalogue(), model.encode, 256, model.item_tokens)


def test_somebody_without_a_past_is_read_as_no_context_is(tiny):
    _, requests = prompts_and_requests(tiny)
    nobody = replace(
        requests[0], user=None, history=np.zeros(0, np.int64), history_times=np.zeros(0, np.int64)
    )
    prompts = [[256, 72], [256, 72, 105]]
    condition = of(tiny, awake(fresh(tiny))).condition([nobody, requests[1]])
    packed = tiny.pack(prompts)
    ours, plain = tiny.hidden(packed, condition), tiny.hidden(packed)
    assert torch.equal(ours[:2], plain[:2])
    assert (ours[2:] - plain[2:]).abs().max() > 1e-3


def test_row_bytes_are_those_of_a_condition(tiny):
    generator = fresh(tiny)
    condition = generator(torch.zeros(1, DIM), torch.ones(1))
    assert generator.row_bytes == sum(4 * (u.a.numel() + u.b.numel()) for (u,) in condition.values())


def test_parameter_counts_that_the_module_states():
    def count(width: int, keys: int, depth: int) -> int:
        layers = {
            f"layers.{at}.{kind}": (width, out)
            for at in range(depth)
            for kind, out in (("q_proj", width), ("v_proj", keys))
        }
        return sum(p.numel() for p in LoraGenerator(layers, 384, 8, 16.0, 64, 16, 0).parameters())

    assert count(576, 192, 30) == pytest.approx(1.03e6, rel=0.01)
    assert count(128, 128, 4) == pytest.approx(0.164e6, rel=0.01)


# -- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"profile": "summary_only", "k": 2}, "no retrieved records"),
        ({"profile": "full_history", "k": 1}, "no retrieved records"),
        ({"profile": "retrieved_only", "k": 0}, "empty profile"),
        ({"profile": "retrieved_only", "summaries": "s.parquet"}, "has no summary"),
    ],
)
def test_nonsense_is_refused_with_the_reason(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        P2PConfig(**settings)


def test_what_the_network_is_told():
    assert P2PConfig().told == ("summary_and_records", 2)
    assert P2PConfig(k=0).told == P2PConfig(profile="summary_only").told == ("summary_only", 0)
    assert P2PConfig(profile="random", k=5).told == ("random", 5)


# -- export -----------------------------------------------------------------------------------------------------


def test_an_exported_adapter_is_loaded_by_peft_with_the_same_states(tiny, tmp_path):
    reading = Reading(tiny, small_builder(tiny), of(tiny, awake(fresh(tiny))))
    _, requests = prompts_and_requests(tiny)
    facts = export_adapter(reading, requests[2], tmp_path)
    assert facts["rank"] == 3
    assert facts["layers"] == 4
    base = load_backbone(BackboneConfig(name="tiny-random", device="cpu")).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(base, str(tmp_path))
    prompts = reading.prompts([requests[2]])
    placed, condition = reading.conditioned(prompts, [requests[2]])
    packed = tiny.pack(placed)
    with torch.no_grad():
        hidden = theirs(inputs_embeds=tiny.embed(packed, None)[None]).last_hidden_state[0]
    torch.testing.assert_close(tiny.hidden(packed, condition), hidden, rtol=1e-5, atol=1e-5)
    half = replace(reading, strength=0.5)
    export_adapter(half, requests[2], tmp_path / "half")
    whole, part = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "half")
    )
    name = "base_model.model.layers.0.self_attn.q_proj.lora_B.weight"
    torch.testing.assert_close(part[name], whole[name] / 2)
    with pytest.raises(ValueError, match="updates no layer"):
        export_adapter(replace(reading, personalizer=None), requests[2], tmp_path)


# -- a whole run ------------------------------------------------------------------------------------------------


def test_training_on_two_tastes_beats_its_start(small_run):
    config, run = small_run
    methods = Methods(run, config)
    validation = methods.world.validation
    for key in ("p2p", "p2p_summary"):
        reading = methods.reading(key)
        trained, start = (
            expected_hit_rate(replace(reading, strength=strength), validation.requests, validation.targets)
            for strength in (1.0, 0.0)
        )
        assert trained > start + 0.01


def test_the_command_writes_an_adapter_for_a_user_of_a_run(small_run, tmp_path):
    from typer.testing import CliRunner

    config, run = small_run
    called = ["export-adapter", str(run.path), "--user", "u3", "--query", "odd", "--out", str(tmp_path / "a")]
    result = CliRunner().invoke(app, called)
    assert result.exit_code == 0, result.output
    methods = Methods(run, config)
    data = methods.dataset
    time = int(data.times.max()) + 1
    user = data.user_index("u3")
    request = Request("x", user, time, *data.before(user, time), query="odd")
    reading = methods.reading("p2p")
    placed, condition = reading.conditioned(reading.prompts([request]), [request])
    packed = reading.model.pack(placed)
    base = load_adapted(run, config.adapt).inner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(base, str(tmp_path / "a"))
    with torch.no_grad():
        hidden = theirs(inputs_embeds=reading.model.embed(packed, None)[None]).last_hidden_state[0]
    torch.testing.assert_close(reading.model.hidden(packed, condition), hidden, rtol=1e-5, atol=1e-5)
    for wrong in (
        ["--user", "nobody"],
        ["--user", "u3", "--method", "e2p"],
        ["--user", "u3", "--method", "x"],
    ):
        out = CliRunner().invoke(app, ["export-adapter", str(run.path), "--out", str(tmp_path / "b"), *wrong])
        assert isinstance(out.exception, ValueError)


# -- analyses ---------------------------------------------------------------------------------------------------


def test_training_parts_are_equally_many_of_more_and_more_users():
    data = dataset()
    events = data.events(FIT)
    parts = training_parts(data, events)
    sizes = {name: len(part) for name, part in parts.items()}
    users = {name: len(np.unique(data.users[part])) for name, part in parts.items()}
    assert len({sizes[f"diversity {share}"] for share in ("0.125", "0.25", "0.5", "1")}) == 1
    assert [users[f"diversity {share}"] for share in ("0.125", "0.25", "0.5", "1")] == [1, 1, 3, 6]
    assert sizes["quantity 1"] == len(events)
    assert sizes["quantity 0.5"] == len(events) // 2
    assert users["quantity 0.125"] == 6
    _, most = np.unique(data.users[parts["diversity 1"]], return_counts=True)
    assert np.ptp(most) <= 1
    assert all(np.isin(part, events).all() and len(np.unique(part)) == len(part) for part in parts.values())


def test_the_analyses_of_a_run(small_run, tmp_path):
    config, run = small_run
    other = Run.create(tmp_path / "run")
    for stage in ("prepare", "embed", "tokenize", "adapt", "personalize"):
        shutil.copytree(run.path / stage, other.path / stage)
    shutil.copy(run.path / "config.yaml", other.path / "config.yaml")
    short = config.personalize.method("p2p").model_copy(
        update={"steps": 2}
    )  # only the encoder's is trained again
    personal = config.personalize.model_copy(update={"methods": (short, config.personalize.method("e2p"))})
    config = config.model_copy(update={"personalize": personal})
    found = analyse_p2p(Methods(other, config), "p2p", 20, ("backbone",), False, oppu_seconds=2.0)
    rows = {one["name"]: one for one in found["profiles"]}
    assert set(rows) == {
        "no context",
        "as trained",
        "summary only",
        "retrieved only",
        "full history",
        "random",
        "shuffled",
    }
    assert rows["as trained"]["hit_rate"] > rows["random"]["hit_rate"]  # another half's taste does not help
    assert [one["name"] for one in found["k"]] == ["0", "1", "2", "4", "8", "16", "32"]
    assert found["k"][0]["hit_rate"] == pytest.approx(rows["summary only"]["hit_rate"], abs=1e-6)
    assert found["k"][2]["hit_rate"] == pytest.approx(rows["as trained"]["hit_rate"], abs=1e-6)
    assert found["encoders"][0]["hit_rate"] == pytest.approx(rows["as trained"]["hit_rate"], abs=1e-6)
    # two steps from No Context
    assert found["encoders"][1]["hit_rate"] == pytest.approx(rows["no context"]["hit_rate"], abs=0.05)
    spent = found["time"]
    gain = 2.0 - spent["p2p_seconds_a_user"]
    assert spent["break_even_users"] == pytest.approx(spent["p2p_training_seconds_estimated"] / gain)
    folder = other.path / "analyses" / "p2p"
    assert {path.name for path in folder.iterdir()} == {"p2p.json", "profiles.png", "k.png", "time.png"}
    with pytest.raises(ValueError, match="not a P2P method"):
        analyse_p2p(Methods(other, config), "e2p")
