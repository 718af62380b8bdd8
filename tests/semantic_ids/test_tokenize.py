"""The tokenize stage, its quality report and the content path, on planted vectors."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console
from safetensors.numpy import save_file
from sklearn.datasets import make_blobs

from recsys.artifacts.paths import RunError
from recsys.config import StageConfig
from recsys.run import Run
from semantic_ids.inputs import Block, InputSpace
from semantic_ids.new_items import ContentPath, chance_of_sharing, held_out_quality
from semantic_ids.quality import level_use, neighbour_agreement, print_quality, quality_report
from semantic_ids.quantizer import ResidualKMeans
from semantic_ids.tokenize_items import TokenizeConfig, fitting_sizes, tokenize_items
from semantic_ids.tokenizer import load_table, load_tokenizer

KMEANS = TokenizeConfig(quantizer="residual_kmeans", levels=2, size=24)


RQVAE = TokenizeConfig(
    levels=2, size=24, rqvae={"hidden": (16,), "latent": 4, "steps": 40, "warmup": 10, "batch": 64}
)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def item_vectors(n: int = 300, missing: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """Clustered unit vectors, `missing` items without any, and text vectors from which they can be told."""
    rng = np.random.default_rng(seed)
    collaborative = unit(make_blobs(n, 8, centers=12, cluster_std=0.7, random_state=seed)[0])
    text = unit(collaborative @ rng.normal(size=(8, 24)) + 0.05 * rng.normal(size=(n, 24)))
    has = np.arange(n) >= missing
    return {"collaborative": collaborative * has[:, None], "has_collaborative": has, "text": text}


def make_run(path, arrays: dict[str, np.ndarray]) -> Run:
    run = Run.create(path)
    for name in ("prepare", "embed"):
        with run.stage(name, StageConfig()).writing() as folder:
            if name == "embed":
                save_file(arrays, folder / "item_vectors.safetensors")
    return run


@pytest.mark.parametrize("source", ["collaborative", "text", "joined"])
@pytest.mark.parametrize("collision", ["reassign", "extra_level"])
def test_the_stage_makes_a_unique_table_and_a_report(tmp_path, source, collision):
    run = make_run(tmp_path, item_vectors())
    tokenize_items(KMEANS.model_copy(update={"source": source, "collision": collision}), run)
    table, report = load_table(run), run.read_json("tokenize", "quality.json")
    assert table.n_items == 300
    assert table.sizes[:2] == (24, 24)
    assert table.n_levels == (2 if collision == "reassign" else 3)
    assert [use["size"] for use in report["levels"]] == list(table.sizes)
    assert sum(report["levels"][0]["counts"]) == 300
    assert report["collisions"]["items_moved"] == 300 - report["collisions"]["distinct_ids_before"]
    assert report["neighbours"]["share_first"] > 3 * report["neighbours"]["chance_first"]
    assert run.read_json("tokenize", "curves.json")["residual_kmeans"]["relative_error_by_level"][1] < 0.4


def test_rqvae_in_the_stage_resumes_after_a_kill_to_the_same_artifacts(tmp_path, monkeypatch):
    import semantic_ids.rqvae as module

    arrays, fit = item_vectors(), module.loop.fit
    monkeypatch.setattr(
        module.loop, "fit", lambda *a, **k: fit(*a, **k | {"checkpoint_every_s": -1.0, "log_every": 5})
    )
    whole, killed = make_run(tmp_path / "whole", arrays), make_run(tmp_path / "killed", arrays)
    tokenize_items(RQVAE, whole)
    restart = module.RQVAE.restart_dead

    def die(self, *args):
        if (tmp_path / "killed/.partial-tokenize/checkpoint/rqvae/checkpoint.safetensors").exists():
            raise KeyboardInterrupt
        return restart(self, *args)

    monkeypatch.setattr(module.RQVAE, "restart_dead", die)
    with pytest.raises(KeyboardInterrupt):
        tokenize_items(RQVAE, killed)
    monkeypatch.setattr(module.RQVAE, "restart_dead", restart)
    tokenize_items(RQVAE, killed)
    artifacts = [run.record("tokenize")["artifacts"] for run in (whole, killed)]
    assert artifacts[0] == artifacts[1]
    assert set(artifacts[0]) >= {"semantic_ids.safetensors", "quantizer.safetensors", "quality.json"}


def test_a_second_run_does_nothing_and_a_damaged_table_is_refused(tmp_path):
    run = make_run(tmp_path, item_vectors())
    tokenize_items(KMEANS, run)
    first = run.record("tokenize")["finished_unix_s"]
    tokenize_items(KMEANS, run)
    assert run.record("tokenize")["finished_unix_s"] == first
    path = tmp_path / "tokenize/semantic_ids.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(RunError, match=r"semantic_ids\.safetensors"):
        load_table(Run.open(tmp_path))


def test_a_loaded_tokenizer_codes_alike_and_adds_items_from_text(tmp_path):
    arrays = item_vectors()
    run = make_run(tmp_path, arrays)
    tokenize_items(KMEANS.model_copy(update={"size": 40}), run)
    table, tokenizer = load_table(run), load_tokenizer(run)
    coded = tokenizer.quantizer.encode(tokenizer.inputs.apply(arrays["collaborative"], None))
    kept = (coded == table.codes)[arrays["has_collaborative"]].all(1).mean()
    assert 1 - kept == pytest.approx(
        run.read_json("tokenize", "quality.json")["collisions"]["items_moved"] / 300, abs=0.02
    )
    longer = tokenizer.add_items(table, arrays["text"][100:110])  # as if they were new: near their twins
    assert longer.n_items == 310
    assert (longer.codes[300:, 0] == coded[100:110, 0]).mean() >= 0.8
    assert longer.content_hash() == table.content_hash()


def test_missing_text_is_an_error_with_its_remedy(tmp_path):
    arrays = item_vectors()
    del arrays["text"]
    run = make_run(tmp_path, arrays)
    for source in ("text", "joined"):
        with pytest.raises(ValueError, match=r"embed\.text_encoder"):
            tokenize_items(KMEANS.model_copy(update={"source": source}), run)
    tokenize_items(KMEANS, run)
    report = run.read_json("tokenize", "quality.json")
    assert report["filled_from"] == "mean"
    assert not report["new_items"]["measured"]
    with pytest.raises(ValueError, match=r"embed\.text_encoder"):
        load_tokenizer(run).add_items(load_table(run), np.zeros((1, 24), np.float32))


def test_no_collaborative_vector_at_all_is_an_error_with_its_remedy(tmp_path):
    run = make_run(tmp_path, item_vectors(missing=300))
    with pytest.raises(ValueError, match=r"tokenize\.source to text"):
        tokenize_items(KMEANS, run)
    tokenize_items(KMEANS.model_copy(update={"source": "text"}), run)


@pytest.mark.parametrize("config", [TokenizeConfig(quantizer="residual_kmeans"), RQVAE])
@pytest.mark.parametrize("n_items", [1, 2, 10])
def test_tiny_catalogues_get_smaller_levels_and_a_warning(tmp_path, config, n_items):
    arrays = item_vectors(n_items, missing=0) | {"text": item_vectors(n_items)["text"]}
    if n_items == 1:
        with pytest.raises(ValueError, match="1 items have a collaborative vector"):
            tokenize_items(config, make_run(tmp_path, arrays))
        return
    run = make_run(tmp_path, arrays)
    with pytest.warns(UserWarning, match=r"tokenize\.size: (64|24) is too much for"):
        tokenize_items(config, run)
    table = load_table(run)
    assert max(table.sizes) <= n_items
    assert run.read_json("tokenize", "quality.json")["notes"]


def test_level_sizes_and_capacity():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitting_sizes(TokenizeConfig(), 3650) == ((64, 64, 64), [])
        assert fitting_sizes(TokenizeConfig(size=(4, 8), levels=2), 32)[0] == (4, 8)
    with pytest.raises(ValueError, match=r"too few for 262145 items; raise tokenize\.size"):
        fitting_sizes(TokenizeConfig(), 64**3 + 1)
    assert fitting_sizes(TokenizeConfig(collision="extra_level"), 64**3 + 1)[0] == (64, 64, 64)
    for n_items in range(2, 300):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for levels in (1, 2, 3):
                sizes, _ = fitting_sizes(TokenizeConfig(size=300, levels=levels), n_items)
                assert max(sizes) <= n_items <= np.prod(sizes)


@pytest.mark.parametrize(
    "wrong", [{"size": (4, 4), "levels": 3}, {"size": 1}, {"levels": 0}, {"source": "x"}, {"sizes": 3}]
)
def test_contradictory_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        TokenizeConfig(**wrong)


def test_blocks_are_centred_and_of_unit_variance_and_the_weight_is_the_share_of_distance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 5, (500, 4)).astype(np.float32), rng.normal(-1, 0.1, (500, 6)).astype(np.float32)
    image = Block.fit(a).apply(a)
    np.testing.assert_allclose(image.mean(0), 0, atol=1e-4)
    assert image.var(0).sum() == pytest.approx(1, rel=1e-3)
    space = InputSpace.fit("joined", a, np.ones(500, bool), b, text_weight=0.5, text_dims=64)
    x = space.apply(a, b)
    assert x.var(0).mean() == pytest.approx(1, rel=1e-3)
    assert x[:, 4:].var(0).sum() / x.var(0).sum() == pytest.approx(0.25 / 1.25, rel=1e-2)
    again = InputSpace.from_arrays(space.arrays())
    assert np.array_equal(again.apply(a, b), x)


def test_principal_axes_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    rows = (np.random.default_rng(0).normal(size=(200, 6)) * [5, 3, 2, 1, 0.5, 0.1]).astype(np.float32)
    block = Block.fit(rows, dims=3)
    theirs = PCA(3, svd_solver="full").fit_transform(rows)
    np.testing.assert_allclose(np.abs(block.apply(rows)) / block.scale, np.abs(theirs), atol=2e-3)


def test_the_content_path_finds_a_planted_relation_and_nothing_where_there_is_none():
    arrays = item_vectors(600, missing=0)
    has, collaborative = arrays["has_collaborative"], arrays["collaborative"]
    inputs = InputSpace.fit("collaborative", collaborative, has, None, 1.0, 64)
    quantizer = ResidualKMeans(inputs.dim, (8, 8))
    quantizer.fit(inputs.apply(collaborative, None), None, 0)  # type: ignore[arg-type]
    planted = held_out_quality(collaborative, has, arrays["text"], inputs, quantizer, 0)
    assert planted["held_out_items"] == 60
    assert planted["cosine"] > 0.95
    assert planted["same_first"] > 0.9 > 0.3 > planted["chance_first"]
    noise = unit(np.random.default_rng(1).normal(size=(600, 24)))
    nothing = held_out_quality(collaborative, has, noise, inputs, quantizer, 0)
    assert nothing["cosine"] < 0.3
    assert nothing["same_first"] < 0.45


def test_the_content_path_is_the_ridge_of_its_formula():
    """(XᵀX + αI)⁻¹ XᵀY on centred X and Y, then unit length."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 5)), rng.normal(size=(80, 3))
    path = ContentPath.fit(x.astype(np.float32), y.astype(np.float32), 0)
    centred = x - x.mean(0)
    weights = np.linalg.solve(centred.T @ centred + path.alpha * np.eye(5), centred.T @ (y - y.mean(0)))
    expected = unit(centred @ weights + y.mean(0))
    np.testing.assert_allclose(path.predict(x.astype(np.float32)), expected, atol=1e-4)


def test_level_use_and_chance_by_hand():
    use = level_use(np.array([0, 0, 1, 1]), 4, 1)
    assert (use["in_use"], use["share_in_use"], use["counts"]) == (2, 0.5, [2, 2, 0, 0])
    assert use["perplexity"] == pytest.approx(2.0)
    # of the 12 ordered pairs of different items, (0, 1) and (2, 3) in both orders share
    assert chance_of_sharing(np.array([[0], [0], [1], [1]])) == pytest.approx(4 / 12)


def test_neighbour_agreement_against_a_plain_loop():
    arrays = item_vectors(60, missing=0)
    vectors, codes = arrays["collaborative"], np.random.default_rng(0).integers(0, 3, (60, 2))
    cosine = vectors @ vectors.T
    first, both = [], []
    for item in range(60):
        near = [other for other in np.argsort(-cosine[item]).tolist() if other != item][:10]
        first += [codes[item, 0] == codes[other, 0] for other in near]
        both += [(codes[item] == codes[other]).all() for other in near]
    found = neighbour_agreement(vectors, codes, 0)
    assert found["share_first"] == pytest.approx(np.mean(first))
    assert found["share_first_two"] == pytest.approx(np.mean(both))


def test_neighbours_of_duplicates_and_zero_vectors_do_not_break_the_report():
    vectors = np.zeros((40, 3), np.float32)
    vectors[20:] = [1, 0, 0]
    assert neighbour_agreement(vectors, np.arange(40)[:, None] // 20, 0)["items"] == 20
    assert neighbour_agreement(vectors[:1], np.zeros((1, 1), np.int64), 0)["k"] == 0


def test_a_collapsed_quantizer_is_warned_of_and_printed():
    vectors = item_vectors(missing=0)["collaborative"]
    quantizer = ResidualKMeans(8, (4, 300))  # never fitted: every codebook vector is zero
    coded = quantizer.encode(vectors)
    codes = np.stack([np.zeros(300, np.int64), np.arange(300)], axis=1)
    report = quality_report(vectors, coded, codes, (4, 300), quantizer, 0)
    assert report["collisions"]["largest_group_before"] == 300
    said = " ".join(report["warnings"])
    assert "level 1 uses 1 of its 4 codes" in said
    assert "share their codes" in said
    assert "near items hardly share" in said
    console = Console(record=True, width=120)
    print_quality(json.loads(json.dumps(report)), console)
    text = console.export_text()
    assert "25.0%" in text
    assert "level 1 uses 1 of its 4 codes" in text
