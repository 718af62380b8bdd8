"""Configurations: names and settings of methods, what is refused and why, and one seed for every stage."""

from __future__ import annotations

import pytest

from llm.methods.catalogue import CATALOGUE
from serving.config.run import RunConfig, load_config
from tests.support.paths import ROOT


def chosen(text: str):
    return load_config(None, [f"personalize.methods={text}"]).personalize.methods


def test_all_is_the_catalogue_and_survives_being_written_out():
    config = load_config(None, ["personalize.methods=all"])
    assert [method.key for method in config.personalize.methods] == list(CATALOGUE)
    assert load_config(None, base=config.model_dump(mode="json")) == config


def test_all_can_be_listed_with_settings_of_ones_own():
    methods = chosen("[all, {key: e2p, bottleneck: 9}, {method: tap_per, length: 2, name: Short}]")
    assert [method.key for method in methods] == [*CATALOGUE, "short"]
    assert next(method for method in methods if method.key == "e2p").bottleneck == 9


def test_a_name_can_be_changed_in_some_settings_and_keeps_the_rest():
    (method,) = chosen("[{key: tap_per_p_q, length: 2}]")
    assert (method.name, method.length, method.user_state) == ("TAP-PER, P_q only", 2, False)
    (own,) = chosen("[{method: tap_per, bridge: false, name: 'TAP-PER, no bridge'}]")
    assert (own.key, own.bridge, own.user_state) == ("tap_per_no_bridge", False, True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[e2pp]", "there is no method 'e2pp'; there are"),
        ("[e2p, e2p]", "two methods have the key 'e2p'"),
        ("[{method: tap_per, records: false, user_state: false, bridge: false}]", "is No Context"),
        ("[{method: tap_per, records: false, prefilter: 5}]", "which records: false leaves out"),
        ("[{method: combination, name: x, parts: [e2p, e2p]}]", "e2p is there twice"),
        ("[{method: combination, name: x, parts: [e2p, static_prefix]}]", "a control is about nobody"),
        ("[{method: combination, name: x, parts: [e2p, rag]}]", "prompts are set on the combination"),
        ("[{method: combination, name: x, parts: [e2p, no_context_continued]}]", "want frozen"),
        ("[{method: combination, name: x, parts: [mt_lora, tap_per]}]", "keep one of them"),
        ("[{method: combination, name: x, parts: [e2p, {key: e2p_prompt}]}]", "has a prompt of its own"),
        ("[{method: rag, k: 0}]", "greater than or equal to 1"),
        ("[{method: e2p, bottlneck: 3}]", "bottlneck"),
    ],
)
def test_nonsense_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        chosen(text)


def test_unknown_keys_wrong_types_and_bad_changes_are_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("adapt: {stepz: 5}")
    with pytest.raises(ValueError, match=r"adapt\.stepz"):
        load_config(path)
    with pytest.raises(ValueError, match=r"adapt\.steps.*'many'"):
        load_config(None, ["adapt.steps=many"])
    with pytest.raises(ValueError, match=r"stage\.key=value"):
        load_config(None, ["adapt.steps"])
    with pytest.raises(ValueError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")


def test_one_seed_reaches_every_stage_and_the_written_config_is_the_same_config(tmp_path):
    config = load_config(None, ["seed=7", "embed.seed=3"])
    assert (config.adapt.seed, config.tokenize.seed, config.evaluate.seed, config.embed.seed) == (7, 7, 7, 3)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_that_ships_is_valid(path, tmp_path):
    given = [f"prepare.path={tmp_path}"] if "source: lastfm" in path.read_text() else []
    config = load_config(path, given)
    assert config.seed == 0
    assert not config.first_look
