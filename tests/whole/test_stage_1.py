"""A regularised Stage 1 of a whole run, killed and gone on with."""

from __future__ import annotations

import pytest

from llm.stage1.adapt import adapt
from recsys.run import Run


def test_a_regularised_stage_1_that_is_killed_ends_in_the_same_bytes(small_run, tmp_path, monkeypatch):
    import shutil

    from recsys.training import loop

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
    monkeypatch.setattr(
        loop.fit,
        "__kwdefaults__",
        loop.fit.__kwdefaults__ | {"log_every": 1, "checkpoint_every_s": 0.0},
    )
    bytes_of = []
    for name, killed in (("whole", False), ("killed", True)):
        shutil.copytree(run.path, tmp_path / name)
        copy = Run.open(tmp_path / name)
        if killed:
            saves = []
            save = loop._save

            def dying(*args, save=save, saves=saves):
                save(*args)
                saves.append(1)
                if len(saves) == 3:
                    raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(loop, "_save", dying)
                with pytest.raises(KeyboardInterrupt):
                    adapt(settings, copy)
            assert len(saves) == 3
        adapt(settings, copy)
        bytes_of.append((copy.path / "adapt" / "sid_rows.safetensors").read_bytes())
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != (run.path / "adapt" / "sid_rows.safetensors").read_bytes()
