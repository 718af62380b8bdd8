"""The model, the runs and the cluster that the tests of this room share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.run import Run
from serving.config.run import RunConfig
from tests.support.shared import data_files, small_run, tiny
from tests.support.worlds import SMALL, run_of, shared_run, small_config

__all__ = ["cluster", "data_files", "small_run", "tiny", "world_run"]

METHODS = [{"key": "e2p", "bottleneck": 8}, {"key": "tap_per"} | SMALL,
           {"method": "tap_per", "name": "no decay", "time_decay": False, "order_decay": False, "user_state": False} | SMALL]  # fmt: skip


@pytest.fixture(scope="session")
def world_run(tmp_path_factory) -> Iterator[tuple[RunConfig, Run]]:
    """A run up to Stage 2 with E2P and TAP-PER, quickly trained."""

    def make(folder: Path) -> None:
        values = small_config(folder).model_dump(mode="json")
        values["embed"]["sasrec"] |= {"steps": 20, "validate_every": 10}
        values["adapt"] |= {"steps": 30}
        values["personalize"] |= {"steps": 20, "learning_rates": [1e-2], "methods": METHODS}
        values["online"] |= {"max_steps": 6, "passes": 2, "batch": 16}
        run_of(RunConfig.model_validate(values), folder, "personalize")

    with shared_run(tmp_path_factory, "quick_run", make) as found:
        yield found


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster of two nodes on this machine, to which this process is connected."""
    ray = pytest.importorskip("ray")
    from serving.engines.choose import engine

    engine("ray")  # sets Ray's environment: no usage statistics, no noise
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # not behind the process of tests beside this one
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 100 << 20}
    nodes = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    nodes.add_node(**small)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
