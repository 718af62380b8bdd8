"""Two processes under `accelerate launch` (CPU, gloo) against one: losses, parameters, artifacts, a kill, and who speaks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llm.align.config import AlignConfig
from recsys.data.dataset import Dataset
from recsys.run import Run
from recsys.training import distributed
from serving.config.run import RunConfig
from serving.pipeline import run_stage
from tests.support.labelled import shown_lists, with_lists
from tests.support.paths import ROOT
from tests.support.two_processes import DIES_AT, SIZES, Rows, optimizer_of
from tests.support.worlds import alone_with_data_files

METHODS = ("e2p", "tap_per", "oppu_prompt", "p2p_summary")


def launch(*arguments: object) -> subprocess.CompletedProcess:
    """`accelerate launch` of tests/support/two_processes.py; --multi_gpu is its name for several processes, GPUs or not."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
               "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no",
               "-m", "tests.support.two_processes", *map(str, arguments)]  # fmt: skip
    own = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, env=os.environ | own, cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def copied(run: Run, config: RunConfig, folder: Path) -> Run:
    """A run that has everything before Stage 1."""
    other = Run.create(folder)
    for stage in ("prepare", "embed", "tokenize"):
        shutil.copytree(run.path / stage, other.path / stage)
    other.write_config(config.model_dump(mode="json"))
    return other


def labelled(small_run: tuple[RunConfig, Run], folder: Path) -> tuple[RunConfig, Run]:
    """A run that has everything before the stage align, and a few steps of it to do."""
    config, one = small_run
    method = {"method": "e2p", "bottleneck": 8}
    rows = [{"method": method, "objective": objective} for objective in ("lm", "kto")]
    settings = {
        "rows": rows,
        "steps": 14,
        "batch": 15,
        "learning_rates": [1e-2],
        "validate_every": 7,
        "watched_requests": 8,
    }
    config = config.model_copy(update={"align": AlignConfig.model_validate(settings)})
    run = with_lists(one, folder, shown_lists(Dataset.load(one)))
    run.write_config(config.model_dump(mode="json"))
    return config, run


@pytest.fixture(scope="module")
def two(small_run, tmp_path_factory) -> SimpleNamespace:
    """What two processes made: a killed and resumed run, Stage 1 of an undisturbed one, and what each found in small checks."""
    config, one = small_run
    folder = tmp_path_factory.mktemp("two")
    chosen = tuple(config.personalize.method(key) for key in METHODS)
    config = config.model_copy(
        update={"personalize": config.personalize.model_copy(update={"methods": chosen})}
    )
    run, whole = copied(one, config, folder / "run"), copied(one, config, folder / "whole")
    _, aligned = labelled(small_run, folder / "aligned")
    died = launch("die", run.path)
    checkpoint = run.path / ".partial-adapt" / "checkpoint" / "checkpoint.safetensors"
    with safe_open(str(checkpoint), framework="pt") as file:
        saved_at = json.loads(file.metadata()["loop"])["index"]
    unfinished = not (run.path / "adapt").exists()
    by_one = Run(shutil.copytree(run.path, folder / "by_one"))
    with alone_with_data_files(config):
        finished = launch("finish", run.path, whole.path, aligned.path, folder)
    assert finished.returncode == 0, finished.stderr
    found = [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]
    return SimpleNamespace(**locals())


def test_a_share_is_a_part_of_the_batch_and_never_empty(monkeypatch):
    for count in range(1, 6):
        for n in range(1, 23):
            shares = []
            for number in range(count):
                for name, value in (("WORLD_SIZE", count), ("RANK", number), ("LOCAL_RANK", number)):
                    monkeypatch.setenv(name, str(value))
                shares.append(list(range(n))[distributed.share(n)])
            if n < count:
                assert shares == [list(range(n))] * count
            else:
                assert [row for rows in shares for row in rows] == list(range(n))
                assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_killed_process_ends_the_others_and_keeps_the_checkpoint(two):
    assert two.died.returncode != 0
    assert "SIGKILL" in two.died.stderr or "exitcode  : -9" in two.died.stderr
    assert two.unfinished
    assert two.saved_at == DIES_AT // 20 * 20  # the last log boundary


def test_killed_and_resumed_by_two_ends_in_the_bytes_of_two_left_alone(two):
    assert two.run.record("adapt")["artifacts"] == two.whole.record("adapt")["artifacts"]


def test_what_two_began_one_can_end(small_run, two):
    run_stage("adapt", two.config, two.by_one)
    compare(small_run[1], two.by_one, "adapt", "Stage 1", "adapter/adapter_model.safetensors", atol=1e-5)


def test_a_step_of_uneven_shares_is_the_step_of_the_whole_batch(two):
    """Against a plain loop over whole batches: weights by targets, clipping after the mean, what got no gradient left alone."""
    module = Rows()
    optimizer, losses = optimizer_of(module), []
    for index in range(12):
        batch = index % len(SIZES)
        optimizer.zero_grad()
        loss = torch.cat([module.errors(batch, row) for row in range(SIZES[batch])]).mean()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5) > 0.5 or index
        optimizer.step()
        losses.append(loss.item())
    for found in two.found:
        assert [at for at, _ in found["rows"]["losses"]] == list(range(1, 13))
        assert [value for _, value in found["rows"]["losses"]] == pytest.approx(losses, rel=1e-5)
        for name, parameter in module.named_parameters():
            assert found["rows"]["parameters"][name] == pytest.approx(parameter.tolist(), abs=1e-5), name
        assert found["rows"]["parameters"]["sleeping"] == [1.0, 1.0]  # not even its weight decays
    assert two.found[0]["rows"] == two.found[1]["rows"]


def test_a_loss_without_a_count_is_everybodys_own(two):
    for found in two.found:
        assert found["alike"] == pytest.approx([0.8**3, 2 * 0.8**3], rel=1e-6)


def test_means_and_work_of_the_main_process_are_told_to_all(two):
    for found in two.found:
        assert found["mean"] == pytest.approx([3 / 3, 10 / 3])
        assert found["by_main"] == [1, 9, 0]  # one process, which takes the whole share, is number 0
    assert [found["failed"] for found in two.found] == ["ValueError", "MainFailed"]


# added to every score of a softmax: its gradient is zero but for rounding, which Adam makes steps of
NOISE = {"p_q.second.bias"}


def curves(run: Run, stage: str, name: str) -> dict:
    return run.read_json(stage, "curves.json")[name]


def compare(one: Run, two: Run, stage: str, name: str, tensors: str, atol: float) -> None:
    ours, theirs = curves(two, stage, name), curves(one, stage, name)
    for key in ("losses", "validation"):
        assert [at for at, _ in ours[key]] == [at for at, _ in theirs[key]]
        assert [value for _, value in ours[key]] == pytest.approx(
            [value for _, value in theirs[key]], rel=1e-5
        )
    assert ours["best_step"] == theirs["best_step"]
    a, b = load_file(two.artifact(stage, tensors)), load_file(one.artifact(stage, tensors))
    assert a.keys() == b.keys()
    for key in a.keys() - NOISE:
        torch.testing.assert_close(
            a[key], b[key], rtol=0, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("tensors", ["adapter/adapter_model.safetensors", "sid_rows.safetensors"])
def test_stage_1_by_two_processes_is_stage_1_by_one(small_run, two, tensors):
    compare(small_run[1], two.run, "adapt", "Stage 1", tensors, atol=1e-5)


@pytest.mark.parametrize(("method", "atol"), [("e2p", 1e-5), ("tap_per", 1e-5), ("p2p_summary", 5e-5)])
def test_stage_2_by_two_processes_is_stage_2_by_one(small_run, two, method, atol):
    """TAP-PER drops the same P_u; P2P's profiles were encoded by turns."""
    compare(small_run[1], two.run, "personalize", f"{method}-0", f"{method}-0.safetensors", atol)


def test_artifacts_are_written_once_and_nothing_is_left_over(small_run, two):
    """OPPU was trained by the main process alone."""
    made = set(two.run.record("personalize")["artifacts"])
    expected = {f"{method}-0.safetensors" for method in METHODS if method != "oppu_prompt"} | {
        "oppu_prompt-0/00000.safetensors", "records.safetensors", "personalize.json", "curves.json",
    }  # fmt: skip
    assert made == expected
    assert not list(two.run.path.glob(".partial-*"))
    assert not list(two.run.path.rglob(".others"))


def test_what_fails_in_the_main_process_is_said_once_and_ends_all(two):
    """tests/support/two_processes.py asserts that both then exit with 2."""
    (line,) = [line for line in two.finished.stderr.splitlines() if "nowhere.csv" in line]
    assert line.startswith("prelude: nowhere.csv does not exist")


def test_only_the_main_process_speaks(two):
    assert two.finished.stdout.count("adapt: 14,336 LoRA") == 2  # of two runs
    assert two.finished.stdout.count("personalize: e2p-0:") == 1
    assert (
        two.finished.stdout.count("Time of each stage") == 2
    )  # of `run` and, by the main process alone, of `status`
    assert "it/s" not in two.finished.stderr  # no bar is drawn in a log, by either


def test_kto_by_two_processes_is_that_of_one(two, small_run, tmp_path):
    """LM, then KTO with its KL baseline of the whole batch, over batches of 15 and a last one that is smaller."""
    alone = labelled(small_run, tmp_path / "one")
    run_stage("align", *alone)
    runs = alone[1], two.aligned
    ours, shared = (run.read_json("align", "curves.json") for run in runs)
    for row in ("e2p_lm-0", "e2p_kto-0"):
        assert shared[row]["losses"] == [pytest.approx(pair, rel=1e-5) for pair in ours[row]["losses"]], row
        values, others = (load_file(run.artifact("align", f"{row}.safetensors")) for run in runs)
        for name, tensor in values.items():
            assert torch.allclose(tensor, others[name], atol=2e-5), (row, name)
    assert two.finished.stdout.count("align: e2p_kto-0:") == 1
