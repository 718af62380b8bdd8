"""A regularised Stage 1 of a whole run, killed and gone on with."""

from __future__ import annotations

import shutil

from llm.stage1.adapt import adapt
from recsys.run import Run
from tests.support.dying import killed_at_save, save_at_every_step


def test_a_regularised_stage_1_that_is_killed_ends_in_the_same_bytes(small_run, tmp_path, monkeypatch):
    config, run = small_run
    settings = config.adapt.model_copy(
        update={
            "dropout": 0.2,
            "label_smoothing": 0.1,
            "steps": 8,
            "validate_every": 4,
            "asked_queries": 0,
        }
    )
    save_at_every_step(monkeypatch)
    bytes_of = []
    for name, killed in (("whole", False), ("killed", True)):
        shutil.copytree(run.path, tmp_path / name)
        copy = Run.open(tmp_path / name)
        if killed:
            with killed_at_save(monkeypatch, 3):
                adapt(settings, copy)
        adapt(settings, copy)
        bytes_of.append((copy.path / "adapt" / "sid_rows.safetensors").read_bytes())
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != (run.path / "adapt" / "sid_rows.safetensors").read_bytes()
