"""An export answers as the run that it is of, to the bit."""

from __future__ import annotations

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.stage1.adapt import adapt
from recsys.artifacts.paths import RunError
from recsys.run import Run
from semantic_ids.tokenize_items import tokenize_items
from serving import Recommender
from serving.export.folder import SUMS, export_run, import_run
from tests.support.exports import HISTORY, NEWCOMER, answers
from tests.support.records import made_with

# -- the same answers elsewhere -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("data_files")
def test_an_imported_run_answers_as_the_original_does_without_the_data_files(
    small_run, expected, exported, tmp_path
):
    config = small_run[0]
    assert import_run(exported, tmp_path / "far" / "run")
    data_files = [config.prepare.interactions, config.prepare.items, config.prepare.queries]
    for path in data_files:
        os.rename(path, f"{path}.away")
    try:
        service = Recommender.load(tmp_path / "far" / "run")
        assert service.methods.available() == list(expected)
        assert {method: answers(service, method) for method in expected} == expected
    finally:
        for path in data_files:
            os.rename(f"{path}.away", path)


def test_an_export_is_small_says_where_it_comes_from_and_is_the_same_each_time(small_run, exported, tmp_path):
    run = small_run[1]
    again = export_run(run.path, tmp_path / "again")
    assert (tmp_path / "again" / SUMS).read_bytes() == (exported / SUMS).read_bytes()
    all_of_it = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    print(f"export of the small run: {again.bytes / 1024:,.0f} KiB of {all_of_it / 1024:,.0f}")
    assert again.bytes == sum(p.stat().st_size for p in exported.rglob("*") if p.is_file()) < all_of_it / 2
    names = {path.name for path in exported.rglob("*")}
    assert not names & {
        "curves.json",
        "quality.json",
        "report.html",
        "results.json",
        "evaluate",
        "checkpoint",
    }
    said = json.loads((exported / "manifest.json").read_text())["exported"]
    assert said["backbone"] == {
        "name": "tiny-random",
        "sha256": run.read_json("adapt", "adapt.json")["backbone_hash"],
        "weights_are_here": False,
    }
    assert (said["run"], said["without_users"]) == (run.path.name, False)
    assert set(said["methods"]) == set(Recommender.load(exported).methods.available())


def test_only_the_methods_that_were_asked_for_and_what_they_are_built_on(small_run, expected, tmp_path):
    export_run(small_run[1].path, tmp_path / "two", ["e2p", "oppu_ia3"])
    service = Recommender.load(tmp_path / "two")
    trained = [m.key for m in service.methods.config.personalize.methods if m.is_trained]
    assert trained == ["e2p", "mt_lora", "oppu_ia3"]  # OPPU's gains are on top of MT-LoRA
    made = {path.name for path in (tmp_path / "two" / "personalize").iterdir()}
    assert made == {
        "e2p-0.safetensors", "mt_lora-0.safetensors", "oppu_ia3-0", "personalize.json", "stage.json"
    }  # fmt: skip
    for method in ("no_context", "e2p", "oppu_ia3"):
        assert answers(service, method) == expected[method]
    with pytest.raises(ValueError, match="no method 'tap_per'; it has"):
        service.recommend("u3", method="tap_per")
    with pytest.raises(ValueError, match=r"--method e3p: .* has no such method; it has no_context_continued"):
        export_run(small_run[1].path, tmp_path / "three", ["e3p"])


def test_feedback_and_a_second_export_go_on_from_an_imported_run(exported, tmp_path):
    import_run(exported, tmp_path / "run")
    service = Recommender.load(tmp_path / "run")
    before = answers(service, "tap_per", NEWCOMER)
    assert service.update([("newcomer", item, 2_000_000 + at) for at, item in enumerate(HISTORY)]).events == 4
    after = answers(service, "tap_per", NEWCOMER)
    assert after != before
    with pytest.raises(RunError, match=r"run/live/state\.sqlite is not in SHA256SUMS: it came after"):
        import_run(tmp_path / "run", tmp_path / "other")
    export_run(tmp_path / "run", tmp_path / "second")
    import_run(tmp_path / "second", tmp_path / "other")
    assert answers(Recommender.load(tmp_path / "other"), "tap_per", NEWCOMER) == after


def test_weights_that_were_trained_from_scratch_come_along(small_run, tmp_path):
    config, run = small_run
    own = config.adapt.model_copy(
        update={
            "train": "full", "steps": 2, "validate_every": 2, "asked_queries": 4, "rows_from": "auto",
            "backbone": config.adapt.backbone.model_copy(update={"name": "scratch", "scratch_hidden": 32, "layers": 1}),
        }
    )  # fmt: skip
    trained = Run.create(tmp_path / "trained")
    for stage in ("prepare", "embed", "tokenize"):
        shutil.copytree(run.path / stage, trained.path / stage)
    tokenize_items(config.tokenize, trained)
    adapt(own, trained)
    trained.write_config(config.model_copy(update={"adapt": own}).model_dump(mode="json"))
    summary = export_run(trained.path, tmp_path / "out")
    assert summary.exported["backbone"]["weights_are_here"]
    assert (tmp_path / "out" / "adapt" / "weights.safetensors").exists()
    service, original = Recommender.load(tmp_path / "out"), Recommender.load(trained.path)
    assert "e2p" not in service.methods.available()  # Stage 2 has not run
    assert answers(service, "no_context") == answers(original, "no_context")


def test_summaries_that_a_method_reads_come_along(small_run, tmp_path):
    told = tmp_path / "told.parquet"
    rows = {"user_id": ["u3"], "timestamp": [5], "summary": ["likes what is odd and strange"]}
    pq.write_table(pa.table(rows), told)
    run = Run.open(shutil.copytree(small_run[1].path, tmp_path / "run"))
    values = run.read_config()
    for method in values["personalize"]["methods"]:
        if method["key"] in ("prompt_context", "p2p"):
            method["summaries"] = str(told)
    made_with(run.path, values)
    before = {key: answers(Recommender.load(run.path), key) for key in ("prompt_context", "p2p")}
    export_run(run.path, tmp_path / "out")
    export_run(run.path, tmp_path / "nobody", ["p2p"], without_users=True)
    told.unlink()
    export_run(tmp_path / "out", tmp_path / "second")
    for place in ("out", "second"):
        service = Recommender.load(tmp_path / place)
        assert {key: answers(service, key) for key in before} == before
    assert not (tmp_path / "nobody" / "outside").exists()
    assert len(Recommender.load(tmp_path / "nobody").recommend("anyone", method="p2p", history=HISTORY)) == 10
