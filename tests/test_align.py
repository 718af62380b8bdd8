"""The stage `align` on the world of two tastes: what it trains on, its references, its rows, kills, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm.align.align import DRAWS, Alignment, align, labelled_world, load_aligned
from llm.align.config import AlignConfig
from llm.align.objectives import kl_baseline, kto_loss
from llm.align.targets import (
    Feedback,
    Labelled,
    LabelledWorld,
    Likelihood,
    Reference,
    rotated,
    target_log_probs,
)
from llm.decoding.scoring import list_log_probs_of
from llm.methods.stage2 import World, batch_rows
from llm.methods.tap_per import TapPer
from recsys.config import StageConfig
from recsys.data.dataset import Dataset
from recsys.engagement.shown_lists import GENERATOR, GENERATOR_VALIDATION, NONE, TEST_LISTS, ShownLists
from recsys.run import Run, RunError
from recsys.seeds import rng
from recsys.training import loop
from serving.answering.methods import Methods
from tests.conftest import SMALL, SMALL_P2P

E2P = {"key": "e2p", "bottleneck": 8}
STATIC = {"key": "static_prefix", "bottleneck": 8}
QUICK = {
    "steps": 36, "pilot_steps": 6, "learning_rates": (1e-3, 1e-2), "validate_every": 12, "warmup": 2, "batch": 16,
    "watched_requests": 12,
}  # fmt: skip


def shown_lists(data: Dataset, seed: int = 0, wanted: int = 5) -> ShownLists:
    """Lists of items of both halves, asked for from event 16 on; a user engages with their own half, now and then not."""
    generator = rng(seed, "shown")
    users, times, parts, items, labels = [], [], [], [], []
    for user in range(data.n_users):
        events = np.arange(data.offsets[user], data.offsets[user + 1])
        for number, event in enumerate(events[16:19]):
            own = data.items[event] % 2
            some = generator.choice(data.n_items, wanted, replace=False)
            users.append(user)
            times.append(int(data.times[event]) + 1)
            parts.append((GENERATOR, GENERATOR_VALIDATION, TEST_LISTS)[number] if user % 5 else NONE)
            items.append(some)
            labels.append((some % 2 == own) ^ (generator.random(wanted) < 0.1))
    first = parts.index(GENERATOR)
    users[first], times[first] = 2, int(data.times[data.offsets[2]])  # nothing before it: no vector
    n = len(users)
    return ShownLists(
        users=np.array(users), times=np.array(times), queries=["even things", "odd things"] * (n // 2) + [""] * (n % 2),
        parts=np.array(parts, np.int8), held_out=np.zeros(n, bool), offsets=np.arange(n + 1) * wanted,
        items=np.concatenate(items).astype(np.int64), labels=np.concatenate(labels),
    )  # fmt: skip


class Hand(StageConfig):
    """Lists made by hand."""


def with_lists(run: Run, folder, lists: ShownLists | None = None) -> Run:
    """A copy of what `align` reads of a run, with shown lists."""
    copy = Run.create(folder)
    for name in ("prepare", "embed", "tokenize", "adapt"):
        shutil.copytree(run.path / name, copy.path / name)
    lists = shown_lists(Dataset.load(copy)) if lists is None else lists
    with copy.stage("engagement", Hand(), needs=["prepare"]).writing() as made:
        lists.save(made)
    return copy


@pytest.fixture(scope="module")
def data_run(small_run, tmp_path_factory) -> Run:
    return with_lists(small_run[1], tmp_path_factory.mktemp("align") / "run")


@pytest.fixture(scope="module")
def settings() -> AlignConfig:
    rows = [
        {"method": STATIC},
        {"method": E2P},
        {"method": E2P, "objective": "engagement"},
        {"method": E2P, "objective": "kto"},
        {
            "method": E2P,
            "objective": "kto",
            "reference": "lm_snapshot",
            "key": "near",
            "name": "E2P (KTO, near)",
        },
    ]
    return AlignConfig.model_validate(QUICK | {"rows": rows})


@pytest.fixture(scope="module")
def aligned(small_run, data_run, settings, tmp_path_factory) -> Run:
    """`data_run` after the stage."""
    run = copied(data_run, tmp_path_factory.mktemp("aligned") / "run")
    align(settings, small_run[0].adapt, run)
    return run


def copied(run: Run, folder) -> Run:
    shutil.copytree(run.path, folder)
    return Run.create(folder)


@pytest.fixture(scope="module")
def world(small_run, data_run, settings) -> LabelledWorld:
    return labelled_world(World.load(data_run, small_run[0].adapt, settings), settings)


# -- configuration ------------------------------------------------------------------------------------------------


def test_the_default_rows_and_a_round_trip():
    config = AlignConfig()
    assert [row.key for row in config.rows] == [
        "static_prefix_lm", "static_prefix_kto", "e2p_lm", "e2p_engagement", "e2p_kto",
    ]  # fmt: skip
    assert [row.name for row in config.rows] == [
        "Static Prefix (LM)", "Static Prefix (KTO)", "E2P (LM)", "E2P (KTO eq. 5)", "E2P (KTO)",
    ]  # fmt: skip
    assert AlignConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.lm_row(config.rows[4]) == config.rows[2]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [{"method": "e2p", "objective": "kto"}],
            "reads the lm snapshot of its method, which no row before it",
        ),
        ([{"method": E2P}, {"method": "e2p", "objective": "kto"}], "which no row before it trains"),
        (
            [{"method": "e2p", "objective": "kto", "start": "fresh", "reference": "lm_snapshot"}],
            "reads the lm snapshot",
        ),
        ([{"method": "e2p"}, {"method": "e2p"}], "two rows have the key 'e2p_lm'"),
        ([{"method": "oppu_lora"}], "no personalizer that one gradient trains"),
        ([{"method": "rag"}], "no personalizer that one gradient trains"),
        ([{"method": "e2pp"}], "there is no method 'e2pp'"),
        ([{"method": "e2p", "objective": "dpo"}], "dpo"),
        ([], "at least 1"),
    ],
)
def test_nonsense_is_refused_with_the_reason(rows, reason):
    with pytest.raises(ValueError, match=reason):
        AlignConfig.model_validate({"rows": rows})


def test_a_fresh_start_needs_no_snapshot_and_weights_come_in_pairs():
    AlignConfig.model_validate({"rows": [{"method": "e2p", "objective": "kto", "start": "fresh"}]})
    with pytest.raises(ValueError, match="both desirable_weight and undesirable_weight"):
        AlignConfig(desirable_weight=2.0)
    with pytest.raises(ValueError, match="it has static_prefix_lm, static_prefix_kto, e2p_lm"):
        AlignConfig().row("e2p_dpo")


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


# -- objectives through the model ---------------------------------------------------------------------------------


FRESH = AlignConfig.model_validate(
    QUICK | {"rows": [{"method": E2P, "objective": "kto", "start": "fresh"}], "desirable_weight": 1.5, "undesirable_weight": 0.5}
)  # fmt: skip


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


# -- the stage ----------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_done(aligned, settings, world):
    report = aligned.read_json("align", "align.json")
    assert report["training"] == world.train.facts()
    assert report["validation"] == world.validation.facts()
    assert report["target"] == "item"
    assert report["frozen_hash_before"] == report["frozen_hash_after"]
    assert set(report["rows"]) == {f"{row.key}-0" for row in settings.rows}
    engagement, kto, near = (report["rows"][f"{key}-0"] for key in ("e2p_engagement", "e2p_kto", "near"))
    n_desirable, n_undesirable = report["training"]["desirable"], report["training"]["undesirable"]
    assert list(engagement["weights"]) == ["alpha"]
    assert 1 - 1e-9 <= n_desirable / (engagement["weights"]["alpha"] * n_undesirable) <= 4 / 3 + 1e-9
    ratio = kto["weights"]["desirable"] * n_desirable / (kto["weights"]["undesirable"] * n_undesirable)
    assert 1 - 1e-9 <= ratio <= 4 / 3 + 1e-9
    assert (kto["reference"], near["reference"]) == ("no_personalization", "lm_snapshot")
    # at the start of a row against its own snapshot every log-ratio is 0
    assert near["validation_minus_loss_at_start"] == pytest.approx(
        -0.5 * np.mean(_weights_of(world.validation, near["weights"])), abs=1e-6
    )
    curves = aligned.read_json("align", "curves.json")
    assert set(curves) == set(report["rows"])
    for name, part in report["rows"].items():
        assert part["best_step"] in (0, 12, 24, 36), name
        assert set(part["pilot_validation_minus_loss"]) == {"0.001", "0.01"}
        assert part["watch"]["reference"]["entropy"] > 0
        assert not part["watch"]["collapsed"]


def _weights_of(some: Labelled, weights: dict) -> list[float]:
    return [weights["desirable" if label else "undesirable"] for label in some.labels]


def test_feedback_tells_engaged_from_not_engaged_where_the_vector_can(aligned):
    """On the world of two tastes a vector says which half is liked; a soft token about nobody does not."""
    rows = aligned.read_json("align", "align.json")["rows"]
    nobody = rows["static_prefix_lm-0"]["validation_auc_of_the_log_ratio"]
    for name in ("e2p_engagement-0", "e2p_kto-0", "near-0"):
        part = rows[name]
        assert part["validation_minus_loss"] > part["validation_minus_loss_at_start"] + 0.01, name
        assert part["validation_auc_of_the_log_ratio"] > max(0.75, nobody + 0.2), name


def test_a_row_that_never_beats_its_start_stays_what_it_was(small_run, world, tmp_path):
    """Training lists whose labels are the other way round: whatever is learned from them, validation says no."""
    lists = world.shown
    part_of_item = np.repeat(lists.parts, np.diff(lists.offsets))
    wrong = replace(lists, labels=lists.labels ^ (part_of_item == GENERATOR))
    rows = [{"method": E2P | {"steps": 2}}, {"method": E2P, "objective": "kto", "reference": "lm_snapshot"}]
    config = AlignConfig.model_validate(
        QUICK | {"rows": rows, "learning_rates": (1e-2,), "seeds": (3, 5), "steps": 6}
    )
    run = with_lists(small_run[1], tmp_path / "run", wrong)
    align(config, small_run[0].adapt, run)
    trained = {}
    for seed in (3, 5):
        part = run.read_json("align", "align.json")["rows"][f"e2p_kto-{seed}"]
        assert part["best_step"] == 0
        assert part["validation_minus_loss"] == part["validation_minus_loss_at_start"]
        # the reference of a replica is its own snapshot, so nothing is said at the start
        assert part["validation_minus_loss"] == pytest.approx(
            -0.5 * np.mean(_weights_of(world.validation, part["weights"])), abs=1e-6
        )
        paths = [run.artifact("align", f"e2p_{kind}-{seed}.safetensors") for kind in ("lm", "kto")]
        snapshot, kept = (load_file(path) for path in paths)
        assert all(torch.equal(snapshot[name], kept[name]) for name in snapshot)
        trained[seed] = kept["phi.w1.weight"]
    assert not torch.equal(trained[3], trained[5])


def test_a_loaded_row_is_what_was_trained(aligned, small_run, settings, tmp_path):
    methods = Methods(aligned, small_run[0])
    reading = load_aligned(methods.world, settings, settings.row("e2p_kto"), 0)
    own = labelled_world(methods.world, settings)
    plain = settings.rows[0].trained.reading(own, None)
    reference = Reference(own, lambda _: plain, lambda _: "plain", tmp_path, 1)
    part = aligned.read_json("align", "align.json")["rows"]["e2p_kto-0"]
    objective = Feedback(own, "kto", reference, part["beta"], part["weights"])
    assert objective.value(reading, 0) == pytest.approx(part["validation_minus_loss"], abs=1e-6)
    assert not any(parameter.requires_grad for parameter in reading.personalizer.parameters())


@pytest.mark.parametrize(
    ("name", "reason"),
    [("table_hash", "another semantic-ID table"), ("embedding_space", "in embedding space 'x'")],
)
def test_a_row_of_another_table_or_space_is_refused_by_name(
    aligned, small_run, settings, tmp_path, name, reason
):
    run = copied(aligned, tmp_path / "run")
    report = run.read_json("align", "align.json") | {name: "x"}
    shutil.rmtree(run.path / "align")
    with run.stage("align", settings, needs=["prepare"]).writing() as folder:
        shutil.copytree(aligned.path / "align", folder, dirs_exist_ok=True)
        (folder / "stage.json").unlink()
        (folder / "align.json").write_text(json.dumps(report))
    with pytest.raises(RunError, match=f"row e2p_kto in .*{reason}"):
        load_aligned(Methods(run, small_run[0]).world, settings, settings.row("e2p_kto"), 0)


class Killed(Exception):
    pass


def test_a_stage_killed_again_and_again_ends_in_the_same_bytes(
    aligned, data_run, small_run, settings, tmp_path, monkeypatch
):
    """… and in those of a stage that had other rows too: a row depends on its snapshot alone."""
    config = settings.model_copy(update={"rows": tuple(settings.row(key) for key in ("e2p_lm", "e2p_kto"))})
    run = copied(data_run, tmp_path / "run")
    save, count = loop._save, 0

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
            align(config, small_run[0].adapt, run)
            break
        except Killed:
            kills += 1
            assert not (run.path / "align").exists()
            assert kills < 100
    assert kills > 3
    ours, whole = (one.record("align")["artifacts"] for one in (run, aligned))
    for row in config.rows:
        assert ours[f"{row.key}-0.safetensors"] == whole[f"{row.key}-0.safetensors"]
    reports = [one.read_json("align", "align.json")["rows"] for one in (run, aligned)]
    assert all(reports[0][name] == reports[1][name] for name in reports[0])
    monkeypatch.setattr(loop, "fit", None)
    align(config, small_run[0].adapt, run)  # done: nothing runs


def test_tap_per_and_p2p_are_aligned_too_and_lists_are_targets(data_run, small_run, tmp_path):
    """Every kind of condition: soft tokens with records and a bridge, generated updates; on whole lists."""
    tap_per, p2p = {"key": "tap_per"} | SMALL, {"key": "p2p"} | SMALL_P2P
    rows = [
        {"method": method, "objective": objective} for method in (tap_per, p2p) for objective in ("lm", "kto")
    ]
    config = AlignConfig.model_validate(
        QUICK | {"rows": rows, "target": "list", "steps": 6, "learning_rates": (3e-3,), "validate_every": 3}
    )
    run = copied(data_run, tmp_path / "run")
    align(config, small_run[0].adapt, run)
    report = run.read_json("align", "align.json")
    assert report["target"] == "list"
    assert report["training"]["without_a_vector"] == 1
    own = World.load(run, small_run[0].adapt, config)
    some = labelled_world(own, config).validation
    for key in ("tap_per", "p2p"):
        lm, kto = (load_aligned(own, config, config.row(f"{key}_{kind}"), 0) for kind in ("lm", "kto"))
        values = [list_log_probs_of(reading, some.requests, some.lists) for reading in (lm, kto)]
        assert np.isfinite(values).all()
        assert np.abs(values[0] - values[1]).max() > 1e-4
        row = report["rows"][
            f"{key}_kto-0"
        ]  # what is kept is never worse on validation than where it started
        assert row["validation_minus_loss"] >= row["validation_minus_loss_at_start"] - 1e-6
    trained = kto_of_tap_per = load_aligned(own, config, config.row("tap_per_kto"), 0).personalizer
    assert isinstance(kto_of_tap_per, TapPer)
    moved = trained.p_u.detach().abs().sum(1) > 0
    asked = labelled_world(own, config).train
    users = {request.user for request in asked.requests}
    assert set(torch.nonzero(moved)[:, 0].tolist()) <= users  # rows of other users were never touched
    assert trained.met.sum() == len(users)
    rows_of_persons = run.artifact("align", "tap_per_kto-0.safetensors")
    assert "p_u" in load_file(rows_of_persons)


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
