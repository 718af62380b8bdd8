"""The same evaluation whoever measures."""

from __future__ import annotations

import json
import shutil

import pytest

from recsys.run import Run
from serving.engines.choose import engine
from serving.engines.local import LocalEngine
from serving.stages.evaluate import evaluate

# -- evaluation --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluations(small_run, tmp_path_factory):
    """A run to be evaluated again, with a few of its methods: a function of an engine that gives `results.json`."""
    config, run = small_run
    few = tuple(
        method for method in config.personalize.methods if method.key in ("static_prefix", "e2p", "tap_per")
    )
    settings = config.evaluate.model_copy(update={"batch_size": 16})
    config = config.model_copy(
        update={
            "personalize": config.personalize.model_copy(update={"methods": few}),
            "evaluate": settings,
        }
    )

    def measured(some_engine) -> bytes:
        copy = tmp_path_factory.mktemp("evaluation") / "run"
        shutil.copytree(run.path, copy)
        shutil.rmtree(copy / "evaluate")
        with pytest.MonkeyPatch.context() as patch:  # costs are timings of this process, whoever measures
            patch.setattr("serving.stages.evaluate.measure_costs", lambda *given: {"rows": {}})
            evaluate(config, Run.open(copy), quiet=True, engine=some_engine)
        return (copy / "evaluate" / "results.json").read_bytes()

    return measured


@pytest.mark.slow
def test_evaluation_gives_the_same_bytes_with_one_worker_and_two(evaluations):
    two = evaluations(LocalEngine(2))
    assert evaluations(LocalEngine(1)) == two
    names = [row["name"] for row in json.loads(two)["rows"]]
    assert names == [
        "Popularity", "Item-kNN", "Item-kNN (softmax)", "Embedding Retrieval", "Embedding Retrieval (softmax)", "SASRec",
        "SASRec (softmax)", "No Context", "Static Prefix", "E2P-Random", "E2P", "TAP-PER",
    ]  # fmt: skip


def test_evaluation_gives_the_same_bytes_on_ray_and_in_this_process(evaluations, cluster):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have
    try:
        assert evaluations(engine("ray", 2)) == evaluations(None)
    finally:
        torch.set_num_threads(before)
