"""The stage `align`: its report, its rows loaded again, kills, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm.align.align import align, labelled_world, load_aligned
from llm.align.config import AlignConfig
from llm.align.targets import (
    Feedback,
    Reference,
)
from llm.decoding.scoring import list_log_probs_of
from llm.methods.stage2 import World
from llm.methods.tap_per import TapPer
from recsys.artifacts.paths import RunError
from recsys.engagement.shown_lists import GENERATOR
from recsys.training import loop
from serving.answering.methods import Methods
from tests.support.alignment import E2P, QUICK, _weights_of, copied
from tests.support.labelled import with_lists
from tests.support.worlds import SMALL, SMALL_P2P

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
