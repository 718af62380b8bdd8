"""Settings that are chosen for whoever gave none: sized to the data, and never over what was set by hand."""

from __future__ import annotations

import itertools

import pytest
import yaml
from rich.console import Console

from recsys.data.dataset import Dataset
from recsys.embeddings.config import EmbedConfig
from recsys.run import Run
from serving.config.first_look import Size, chosen, estimate, first_look, overlaid
from serving.config.run import RunConfig
from tests.support.command_line import prelude

SIZES = [
    Size(events, users, items)
    for events, users, items in itertools.product(
        (100, 10_000, 10_000_000), (10, 1_000_000), (20, 9_742, 40_000, 1_000_000)
    )
]


def settings_for(size: Size, given: RunConfig | None = None) -> RunConfig:
    class Prepared:
        def read_json(self, stage: str, name: str):
            assert (stage, name) == ("prepare", "prepare.json")
            return {
                "roles": {"fit": size.events, "personalize": 0, "validation": 5, "test": 7},
                "counts": {"users": size.users, "items": size.items},
                "card": {"text_columns": {}, "items_without_title": 0 if size.has_words else size.items},
            }

    return chosen(given or RunConfig(first_look=True), Prepared(), Console(quiet=True))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_has_valid_settings_with_room_for_every_item(size):
    found = settings_for(size)
    assert not found.first_look
    assert found.tokenize.size**found.tokenize.levels > size.items
    assert found.adapt.steps > found.adapt.warmup > 0
    assert found.adapt.steps % found.adapt.validate_every < found.adapt.validate_every
    assert sum(estimate(size, found).values()) > 0
    assert found.evaluate.whole_catalogue == (size.items <= 50_000)


def test_more_events_are_read_in_more_steps():
    steps = [
        first_look(Size(events, 10, 100), EmbedConfig())["adapt"]["steps"]
        for events in (1_000, 100_000, 10**9)
    ]
    assert steps[0] < steps[1] < steps[2]


def test_what_was_set_by_hand_stays():
    given = RunConfig(
        first_look=True, adapt={"steps": 77, "prompts": {"recent_items": 3}}, evaluate={"max_instances": 9}
    )
    found = settings_for(SIZES[5], given)
    assert (found.adapt.steps, found.adapt.prompts.recent_items, found.evaluate.max_instances) == (77, 3, 9)
    assert found.adapt.items == "vector"
    backbone = RunConfig(first_look=True, adapt={"backbone": {"name": "tiny-random"}})
    assert settings_for(SIZES[5], backbone).adapt == backbone.adapt
    assert overlaid(
        {"a": {"x": 1, "y": 2}, "b": 3},
        {"a": {"x": 0, "y": 7}, "b": None},
        {"a": {"x": 0, "y": 0}, "b": None},
    ) == {
        "a": {"x": 1, "y": 7},
        "b": 3,
    }


def made_of(config: RunConfig) -> tuple:
    assert config.combine is not None
    return (
        config.embed.text_encoder,
        config.tokenize.source,
        config.adapt.words_batch,
        config.combine.experts,
    )


def test_nothing_is_made_of_words_where_there_are_none_or_nobody_reads_them():
    """Else `tokenize` or `combine` would refuse the run, after minutes; ids encoded as if they were titles are no words."""
    all_of_it = "minilm", "joined", 32, ("embedding_retrieval", "text", "item_knn")
    wordless = None, "collaborative", 0, ("embedding_retrieval", "item_knn")
    assert made_of(settings_for(Size(100, 10, 20))) == all_of_it
    assert made_of(settings_for(Size(100, 10, 20, has_words=False))) == wordless
    unread = RunConfig(first_look=True, embed={"text_encoder": None})
    assert made_of(settings_for(Size(100, 10, 20), unread)) == wordless
    left_out = RunConfig(first_look=True, embed={"item_knn": None})
    assert made_of(settings_for(Size(100, 10, 20), left_out))[3] == ("embedding_retrieval", "text")


def test_the_estimate_follows_steps_items_and_events():
    small, large = Size(1_000, 10, 100), Size(2_000, 10, 200)
    config = settings_for(small)
    longer = config.model_copy(
        update={"adapt": config.adapt.model_copy(update={"steps": 2 * config.adapt.steps})}
    )
    before, after = estimate(small, config), estimate(small, longer)
    assert after["adapt"] - before["adapt"] == pytest.approx(0.33 * config.adapt.steps)
    assert all(after[name] == before[name] for name in before if name != "adapt")
    more = estimate(large, config)
    assert all(more[name] > before[name] for name in ("embed", "tokenize", "combine", "evaluate"))


def written(path) -> dict:
    return yaml.safe_load((path / "config.yaml").read_text())


def test_prepare_without_a_configuration_chooses_and_says_so(tmp_path, monkeypatch, capsys):
    rows = "".join(
        f"u{user},i{(user * step) % 17},{1_600_000_000 + 60 * step}\n"
        for user in range(12)
        for step in range(1, 9)
    )
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + rows)
    run = tmp_path / "run"
    _, told, _ = prelude(
        monkeypatch,
        capsys,
        "prepare",
        run,
        "--interactions",
        tmp_path / "events.csv",
        "--set",
        "personalize.steps=9",
    )
    assert "A first look at" in told
    assert "No configuration was given" in told
    assert Dataset.load(Run.open(run)).n_items == 17
    found = written(run)
    assert (found["first_look"], found["adapt"]["head"], found["personalize"]["steps"]) == (False, "depth", 9)
    # chosen once: afterwards it is a configuration like any other
    prelude(monkeypatch, capsys, "prepare", run, "--set", "adapt.steps=5000")
    assert written(run) == found | {"adapt": found["adapt"] | {"steps": 5000}}
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump({"prepare": found["prepare"]}, default_flow_style=False))
    _, told, _ = prelude(monkeypatch, capsys, "prepare", tmp_path / "other", "--config", config)
    assert written(tmp_path / "other")["adapt"]["head"] == "tokens"
    assert "A first look at" not in told
