"""The configuration of a run says what its stages were made from; where it says something else, the run is not used."""

from __future__ import annotations

import shutil

import pytest
import yaml

from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving import Recommender
from serving.config.run import RunConfig
from serving.config.sections import SECTIONS, UPSTREAM
from serving.config.truth import config_of, settings_changed
from serving.export.folder import export_run
from serving.playlists.plan import Settings, refuse_impossible
from serving.stages.names import COMBINED_STAGES, PLAYLIST_STAGES
from tests.support.command_line import prelude
from tests.support.records import without_setting


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    return Run.open(shutil.copytree(small_run[1].path, tmp_path / "run"))


def edit(run: Run, section: str, *path: str | int, value) -> None:
    values = run.read_config()
    place = values[section]
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    (run.path / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def test_a_setting_changed_in_passing_is_shown_and_refused_by_name(run, small_run, monkeypatch, capsys):
    """`prepare` has nothing to do; evaluate and serving would read prompts that the weights have never seen."""
    monkeypatch.setenv("COLUMNS", "300")
    before = Recommender.load(run.path).recommend("u3", n=5)
    line = "adapt.prompts.recent_items was 2 when stage 'adapt' was made, and is 1"
    code, out, _ = prelude(monkeypatch, capsys, "prepare", run.path, "--set", "adapt.prompts.recent_items=1")
    assert (code, line in out) == (0, True)
    code, out, _ = prelude(monkeypatch, capsys, "status", run.path)
    assert (code, line in out, "personalize" in out) == (0, True, True)
    config = (run.path / "config.yaml").read_bytes()
    records = {stage: run.record(stage) for stage in SECTIONS}
    for command in (
        ("evaluate", run.path),
        ("personalize", run.path, "--set", "personalize.steps=1"),
        ("recommend", run.path, "--user", "u3"),
        ("export", run.path, "--out", run.path.with_name("out")),
        ("drift", run.path),
        ("export-adapter", run.path, "--user", "u3", "--out", run.path.with_name("adapter")),
        ("analyse", "p2p", run.path),
    ):
        code, _, error = prelude(monkeypatch, capsys, *command)
        assert (code, line in error) == (2, True), command
        assert "--set adapt.prompts.recent_items=2" in error
        assert f"prelude adapt {run.path}" in error
    assert (run.path / "config.yaml").read_bytes() == config
    assert {stage: run.record(stage) for stage in SECTIONS} == records
    back = ("prepare", run.path, "--set", "adapt.prompts.recent_items=2")
    code, out, _ = prelude(monkeypatch, capsys, *back)
    assert (code, "was" in out) == (0, False)
    assert Recommender.load(run.path).recommend("u3", n=5) == before


def test_a_change_given_to_evaluate_itself_is_refused_before_anything_is_written(run, monkeypatch, capsys):
    before = (run.path / "config.yaml").read_bytes()
    for change in ("prepare.split.test_fraction=0.2", "embed.lightgcn.dim=8", "personalize.seeds=[1]"):
        code, _, error = prelude(monkeypatch, capsys, "evaluate", run.path, "--set", change)
        assert (code, change.partition("=")[0] in error) == (2, True)
        assert (run.path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("prepare", "exclude_seen"), True, "prepare.exclude_seen was false"),
        (("embed", "lightgcn", "layers"), 9, "embed.lightgcn.layers was"),
        (("tokenize", "size"), 7, "tokenize.size was 8"),
        (("adapt", "backbone", "layers"), 1, "adapt.backbone.layers was null"),
        (("personalize", "steps"), 31, "personalize.steps was 30"),
        (("personalize", "methods", 2, "bottleneck"), 9, r"personalize.methods\[e2p\].bottleneck was 8"),
    ],
)
def test_every_section_is_compared_at_every_door(run, path, value, named):
    edit(run, *path, value=value)
    for opening in (
        Recommender.load,
        lambda path: refuse_impossible(Run.open(path), Settings()),
        lambda path: export_run(path, path.with_name("out")),
    ):
        with pytest.raises(RunError, match=named):
            opening(run.path)


def test_a_method_that_was_taken_out_or_put_in_is_a_difference(run):
    values = run.read_config()
    kept = [method for method in values["personalize"]["methods"] if method["key"] != "tap_per"]
    edit(run, "personalize", "methods", value=kept)
    with pytest.raises(
        RunError, match=r"personalize\.methods\[keys\] was \[\"tap_per\"\] .*edit .*config\.yaml"
    ):
        config_of(run)


def test_what_no_stage_was_made_from_may_change(run):
    before = Recommender.load(run.path).recommend("u3", n=5)
    values = run.read_config()
    values["evaluate"]["bootstrap_samples"] = 300
    values["online"]["max_steps"] = 1
    values["example"]["n"] = 2
    values["adapt"]["backbone"]["device"] = "auto"  # where, not what
    del values["drift"]
    (run.path / "config.yaml").write_text(yaml.safe_dump(values))
    assert Recommender.load(run.path).recommend("u3", n=5) == before


def test_a_run_of_an_older_prelude_is_read_with_the_defaults_of_what_it_could_not_set(run):
    """What both lack is the default of both; a setting that a stage could not have, and that is no default, is a difference."""
    without_setting(run, "adapt", "title_weight")
    values = run.read_config()
    del values["adapt"]["title_weight"]
    (run.path / "config.yaml").write_text(yaml.safe_dump(values))
    assert settings_changed(run, config_of(run)) == []
    edit(run, "adapt", "title_weight", value=0.7)
    with pytest.raises(RunError, match=r"adapt\.title_weight was 0\.1 .* and is 0\.7"):
        config_of(run)


def config_or_none(run: Run) -> RunConfig | None:
    try:
        return config_of(run)
    except ValueError:  # what the command line prints as one message; anything else is a traceback
        return None


def test_flipped_bytes_of_what_stages_were_made_from_are_refused_or_change_nothing(run):
    """Every 37th byte of the configuration: refused, or a run whose settings are the very same, but for the device."""

    def settings(config: RunConfig) -> dict:
        adapt = config.adapt.model_copy(
            update={"backbone": config.adapt.backbone.model_copy(update={"device": ""})}
        )
        return {name: adapt if name == "adapt" else getattr(config, name) for name in made}

    path = run.path / "config.yaml"
    good, config = path.read_bytes(), config_of(run)
    made = [name for name in SECTIONS if run.record(name)]
    refused = 0
    for at in range(0, len(good), 37):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        found = config_or_none(run)
        refused += found is None
        assert found is None or settings(found) == settings(config), at
    assert refused > len(good) / 37 / 2


def test_a_broken_configuration_is_one_message_and_status_says_it(run, monkeypatch, capsys):
    (run.path / "config.yaml").write_text("adapt: {prompts: [")
    with pytest.raises(RunError, match=r"config\.yaml is damaged: not valid YAML"):
        Recommender.load(run.path)
    code, out, _ = prelude(monkeypatch, capsys, "status", run.path)
    assert (code, "not valid YAML" in out) == (0, True)


def test_every_stage_knows_what_it_relies_on():
    assert set(UPSTREAM) == {*COMBINED_STAGES, *PLAYLIST_STAGES}
    assert all(set(sections) <= set(SECTIONS) and name not in sections for name, sections in UPSTREAM.items())
