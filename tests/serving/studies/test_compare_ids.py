"""`prelude compare-ids` on the world of two tastes: shared stages, resumption, figures against a plain loop, refusals."""

from __future__ import annotations

import json
import math
from itertools import permutations

import numpy as np
import pytest
import yaml
from scipy import stats

from evaluation.statistics import rank_correlation
from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.data.splits import VALIDATION
from recsys.run import Run
from semantic_ids.scores import SCORES, scores_of
from semantic_ids.tokenizer import load_table
from serving.answering.methods import Methods
from serving.pipeline import run_stage
from serving.studies.compare_ids import compare, read_variants
from tests.support.command_line import prelude
from tests.support.worlds import small_config

VARIANTS = {"three.rqvae": {}, "two-kmeans": {"quantizer": "residual_kmeans", "levels": 2, "size": 12}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The command run once, without and with training: (folder, config.yaml, variants.yaml, run, its report)."""
    folder = tmp_path_factory.mktemp("compare")
    config = small_config(folder)
    config = config.model_copy(
        update={
            "embed": config.embed.model_copy(update={"sasrec": None}),  # IDs are made without
            "adapt": config.adapt.model_copy(update={"steps": 30, "words_batch": 2}),
        }
    )
    paths = folder / "config.yaml", folder / "variants.yaml"
    paths[0].write_text(yaml.safe_dump(config.model_dump(mode="json")))
    paths[1].write_text(yaml.safe_dump(VARIANTS))
    run = Run.create(folder / "run")
    variants = read_variants(paths[1], config)
    alone = compare(config, variants, run, train=False)
    assert not (run.path / "compare_ids.json").exists()
    assert Run(run.path / "ids/two-kmeans").record("adapt") is None
    report = compare(config, variants, run)
    return config, paths, run, alone, report


def finished(run: Run) -> dict[str, float]:
    return {
        f"{path.parent.parent.name}/{path.parent.name}": json.loads(path.read_text())["finished_unix_s"]
        for path in sorted(run.path.rglob("stage.json"))
    }


def test_scores_need_no_training_and_stay_the_same(world):
    _, _, run, alone, report = world
    assert [row["name"] for row in alone["variants"]] == list(VARIANTS)
    for row in alone["variants"]:
        assert set(row) == {"name", "tokenize", "scores"}
        assert row["scores"] == scores_of(Run.open(run.path / "ids" / row["name"]))
        assert row["scores"] == {one["name"]: one["scores"] for one in report["variants"]}[row["name"]]
    assert alone["variants"][0]["scores"] != alone["variants"][1]["scores"]


def test_figures_are_those_of_every_validation_instance(world):
    """Recall@10, NDCG@10 and the expected hit-rate again, one instance at a time, users averaged first."""
    config, paths, run, _, report = world
    variants = read_variants(paths[1], config)
    for row in report["variants"]:
        own = Run.open(run.path / "ids" / row["name"])
        method, data = Methods(own, variants[row["name"]]).build("no_context"), Dataset.load(own)
        by_user: dict[int, list] = {}
        for event in data.events(VALIDATION):
            request, target = data.request(event, data.exclude_seen), int(data.items[event])
            ranked = method.recommend([request], 10)[0].items.tolist()
            p = math.exp(method.log_prob([request], np.array([target]))[0])
            gain = 1 / math.log2(2 + ranked.index(target)) if target in ranked else 0.0
            by_user.setdefault(request.user, []).append((target in ranked, gain, 1 - (1 - p) ** 30))
        means = np.mean([np.mean(values, axis=0) for values in by_user.values()], axis=0)
        found = [row[name] for name in ("recall@10", "ndcg@10", "expected_hit_rate@30")]
        assert found == pytest.approx(means.tolist(), abs=1e-5)
        assert row["instances"] == len(data.events(VALIDATION))
        assert row["users"] == len(by_user)
        assert row["recall@10_ci95"][0] <= row["recall@10"] <= row["recall@10_ci95"][1]


def test_the_report_is_by_recall_and_written(world):
    _, _, run, _, report = world
    recalls = [row["recall@10"] for row in report["variants"]]
    assert recalls == sorted(recalls, reverse=True)
    assert json.loads((run.path / "compare_ids.json").read_text()) == json.loads(json.dumps(report))
    assert [one["score"] for one in report["correlations"]] == list(SCORES)
    for one in report["correlations"]:  # two points tell no correlation
        assert one["recall@10"] == one["expected_hit_rate@30"] == {"rho": None, "p": None}
    pictures = [(run.path / f"compare_ids{end}.png").read_bytes() for end in ("", "_hit_rate")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]


def test_variants_share_prepare_and_embed_and_are_whole_runs(world):
    config, paths, run, _, _ = world
    variant = read_variants(paths[1], config)["two-kmeans"]
    own = Run.open(run.path / "ids/two-kmeans")
    assert (own.path / "embed/item_vectors.safetensors").samefile(run.path / "embed/item_vectors.safetensors")
    assert load_table(own).sizes == (12, 12)
    assert load_table(Run.open(run.path / "ids/three.rqvae")).n_levels == 3
    before = finished(run)
    for stage in (
        "prepare",
        "embed",
        "tokenize",
        "adapt",
    ):  # `prelude run --run RUN/ids/two-kmeans` has nothing to do
        run_stage(stage, variant, own)
    assert finished(run) == before


def test_again_does_nothing_and_a_new_variant_is_the_only_one_made(world, monkeypatch, capsys):
    _, paths, run, _, report = world
    before = finished(run)
    arguments = ("compare-ids", paths[0], "--run", run.path, "--variants", paths[1])
    code, out, err = prelude(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert finished(run) == before
    for row in report["variants"]:
        assert f"{row['recall@10']:.4f}" in out
    third = paths[1].with_name("three.yaml")
    third.write_text(yaml.safe_dump(VARIANTS | {"third": {"levels": 2, "size": 10, "rqvae": {"steps": 20}}}))
    code, out, err = prelude(monkeypatch, capsys, *arguments[:-1], third)
    assert code == 0, err
    after = finished(run)
    assert {key: after[key] for key in before} == before
    assert {key for key in after if key not in before} == {
        f"third/{stage}" for stage in ("tokenize", "adapt", "validate")
    }
    told = json.loads((run.path / "compare_ids.json").read_text())
    one = next(one for one in told["correlations"] if one["score"] == "transition_nats")
    figures = ([row["scores"]["transition_nats"], row["expected_hit_rate@30"]] for row in told["variants"])
    x, y = zip(*figures, strict=True)
    assert one["variants"] == 3
    assert one["expected_hit_rate@30"]["rho"] == pytest.approx(stats.spearmanr(x, y).statistic)
    code, out, err = prelude(monkeypatch, capsys, *arguments, "--no-train")
    assert code == 0, err
    assert "recall@10" not in out
    assert finished(run) == after


def test_a_killed_comparison_resumes(world, monkeypatch):
    """Killed while the second variant is measured, it comes to the same report and trains nothing twice."""
    import serving.studies.compare_ids as module

    config, paths, run, _, report = world
    variants = read_variants(paths[1], config)
    figures = module._figures

    def die(*arguments):
        raise KeyboardInterrupt

    for name in VARIANTS:
        (run.path / "ids" / name / "validate/validate.json").unlink()
    monkeypatch.setattr(module, "_figures", die)
    with pytest.raises(KeyboardInterrupt):
        compare(config, variants, run)
    monkeypatch.setattr(module, "_figures", figures)
    adapted = {key: value for key, value in finished(run).items() if key.endswith("adapt")}
    again = compare(config, variants, run)
    assert again == report
    assert {key: value for key, value in finished(run).items() if key.endswith("adapt")} == adapted


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": {"levels": 0}}, r"variant 'a' is not valid:\n  tokenize.levels"),
        ({"a": {"size": [8, 8]}}, r"size \(8, 8\) has 2 levels, but levels is 3"),
        ({"a": {"sorce": "text"}}, r"tokenize.sorce"),
        ({"../a": {}}, "a name becomes a folder"),
        ({"a": 3}, "expected changes of tokenize, found 3"),
        ([], "expected a mapping"),
    ],
)
def test_wrong_variants_are_refused_by_name(world, tmp_path, variants, message):
    path = tmp_path / "variants.yaml"
    path.write_text(yaml.safe_dump(variants))
    with pytest.raises(ValueError, match=message):
        read_variants(path, world[0])


def test_a_folder_in_the_way_is_not_written_over(world, tmp_path):
    config, paths, _, _, _ = world
    run = Run.create(tmp_path / "run")
    own = run.path / "ids/two-kmeans/prepare"
    own.mkdir(parents=True)
    for stage in ("prepare", "embed"):
        run_stage(stage, config, run)
    with pytest.raises(RunError, match=r"two-kmeans.*is in the way"):
        compare(config, {"two-kmeans": read_variants(paths[1], config)["two-kmeans"]}, run, train=False)


def test_rank_correlation_against_all_pairings():
    x, y = np.array([3.0, 1.0, 2.0, 5.0, 4.0, 4.0]), np.array([0.3, 0.1, 0.25, 0.2, 0.6, 0.5])
    rho = stats.spearmanr(x, y).statistic
    all_of_them = [abs(stats.spearmanr(np.array(some), y).statistic) for some in permutations(x)]
    found = rank_correlation(x, y)
    assert found == pytest.approx((rho, np.mean(np.array(all_of_them) >= abs(rho) - 1e-12)))
    assert rank_correlation(-x, y) == pytest.approx((-rho, found[1]))
    assert rank_correlation(np.ones(5), np.arange(5)) == (None, None)
    assert rank_correlation(np.arange(2), np.arange(2)) == (None, None)
    many = np.random.default_rng(0).normal(
        size=(2, 40)
    )  # too many for all pairings: scipy's asymptotic p is near
    found = rank_correlation(*many)
    assert found == rank_correlation(*many)
    assert found[1] == pytest.approx(stats.spearmanr(*many).pvalue, abs=0.03)
