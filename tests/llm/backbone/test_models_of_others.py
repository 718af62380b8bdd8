"""Models are data: no call that loads one may run code that came with it, and adapters have the same bytes in every process."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from llm.backbone.load import BackboneConfig, load_backbone
from tests.support.models import save_an_adapter
from tests.support.paths import ROOT

LOADS = ("from_pretrained", "from_config", "load_dataset", "pipeline")
OTHERS = (
    "nn.Embedding",
    "PeftModel",
    "ScriptDirectory",
)  # torch's table from a tensor; PEFT, which runs none and has no such option; Alembic's folder of migrations
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SAVE = "import sys; from pathlib import Path; from tests.support.models import save_an_adapter; save_an_adapter(Path(sys.argv[1]), sys.argv[2:])"


def loading_calls() -> list[tuple[str, ast.Call]]:
    found = []
    for room in ("recsys", "semantic_ids", "llm", "evaluation", "serving"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                    whose = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
                    if name in LOADS and whose not in OTHERS:
                        found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def test_every_call_that_loads_a_model_says_that_no_code_of_others_runs():
    calls = loading_calls()
    assert len(calls) >= 8
    for place, call in calls:
        said = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert said.get("trust_remote_code") == "False", place


def test_a_folder_with_code_of_its_own_is_refused_and_the_code_not_run(tmp_path):
    """As transformers would run it, where it was told to trust it."""
    ran = tmp_path / "ran.txt"
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).write_text('ran')\nclass Own: pass\n"
    )
    with pytest.raises(ValueError, match="cannot be loaded by transformers"):
        load_backbone(BackboneConfig(name=str(folder), device="cpu"))
    assert not ran.exists()


def in_a_process(code: str, *arguments, **environment: str) -> str:
    command, own = [sys.executable, "-c", code, *map(str, arguments)], {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        command, check=True, env=os.environ | own, cwd=ROOT, capture_output=True, text=True
    ).stdout


def test_an_adapter_has_the_same_bytes_in_every_process(tmp_path):
    """PEFT writes a set, whose order hangs on the process's hash seed: here it is another than in the process beside."""
    order = "import sys; print(*set(sys.argv[1:]))"
    seed = next(
        seed for seed in map(str, range(100))
        if in_a_process(order, *NAMES, PYTHONHASHSEED=seed).split() != list(set(NAMES))
    )  # fmt: skip
    save_an_adapter(tmp_path / "here", NAMES)
    in_a_process(SAVE, tmp_path / "beside", *NAMES, PYTHONHASHSEED=seed)
    written = []
    for folder in (tmp_path / "here", tmp_path / "beside"):
        assert sorted(path.name for path in folder.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    settings = json.loads(written[0]["adapter_config.json"])
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert (
        settings["r"],
        settings["peft_type"],
        len(load_file(tmp_path / "here" / "adapter_model.safetensors")),
    ) == (2, "LORA", 28)
