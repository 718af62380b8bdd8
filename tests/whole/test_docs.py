"""The documents: every block of code that can run does so on a small run, and what they name is there.

The small run calls some things otherwise than the documents do; `CALLED` is the dictionary.
"""

from __future__ import annotations

import importlib
import re
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from typer.testing import CliRunner

from recsys.run import Run
from serving.cli import app
from serving.config.run import RunConfig, load_config
from tests.support.documents import Block, blocks, pages, spans, text_of
from tests.support.engines import Here
from tests.support.nights import events_yesterday, items_today, vectors_today
from tests.support.paths import ROOT

CALLED = {"42": "u1", "dark comedy": "even", "genres": "kind", "296": "i4", "593": "i7", "tap_per": "tap_per"}
WORDS = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in CALLED))
PLACEHOLDER = re.compile(r"NAME|ROOM|…|\*|\bDIR\b")
PREFIXES = ("recsys/", "semantic_ids/", "llm/", "evaluation/", "serving/", "tests/", "docs/", "configs/")
ALL = [block for page in pages() for block in blocks(page)]
LIGHT = {  # settings of a run of one's own, which is trained here from its files
    "embed": {"lightgcn": {"dim": 16, "epochs": 4, "batch": 256, "negatives": 32}, "text_encoder": None},
    "tokenize": {"quantizer": "residual_kmeans", "size": 8},
    "adapt": {"backbone": {"name": "tiny-random", "device": "cpu"}, "steps": 8, "batch": 8, "validate_every": 8},
    "personalize": {"steps": 4, "pilot_steps": 2, "learning_rates": [1e-3], "methods": ["static_prefix", "e2p"]},
    "evaluate": {"bootstrap_samples": 100, "random_permutations": 1, "max_instances": 8},
}  # fmt: skip


# -- what is written is there --------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(text_of("README.md").encode()) <= 10_000


def test_the_tour_says_what_the_modules_say():
    written = runpy.run_path(str(ROOT / "docs" / "site" / "tour.py"))["tour"]()
    assert text_of("docs/tour.md") == written, "the tour is behind; run: python docs/site/tour.py"


def test_a_line_of_the_tour_is_a_whole_sentence():
    lines = [line for line in text_of("docs/tour.md").splitlines() if line.startswith("- `")]
    assert len(lines) > 200
    assert [line for line in lines if not line.endswith(".")] == []


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_says_what_it_is(block):
    assert block.language in ("python", "sh", "yaml", "text")
    assert block.reason is None or len(block.reason) > 15, "the mark says why the block is not run"
    assert block.language != "text" or not re.search(r"^\s*(prelude|make|pip) ", block.code, re.MULTILINE)


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "sh"], ids=str)
def test_every_command_line_can_be_parsed(block):
    for words in block.commands():
        check_command(words)


def test_a_wrong_command_line_would_be_seen():
    for wrong in ("prelude recomend RUN", "prelude recommend RUN --usr 42", "make dmeo", "pip install '.[rya]'", "rm x",
                  "prelude run configs/tiny.yaml --set adapt.stepps=3", "prelude user RUN --id 42 shw"):  # fmt: skip
        (words,) = Block("page", 1, "sh", wrong, None).commands()
        with pytest.raises(AssertionError):
            check_command(words)


@pytest.mark.parametrize("page", pages())
def test_what_stands_in_backticks_is_there(page):
    for span in spans(page):
        if span.startswith("prelude "):
            command, rest = command_of(span.split()[1:])
            known = {name for parameter in command.params for name in (*parameter.opts, "--help")}
            assert {word for word in rest if word.startswith("--")} <= known, span
        elif span.startswith("make "):
            check_command(span.split())
        elif span.startswith(PREFIXES) and not PLACEHOLDER.search(span) and " " not in span:
            assert (ROOT / span).exists(), f"{page} names {span}"


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after its name."""
    command, rest = typer.main.get_command(app), list(words)
    while rest and (within := getattr(command, "commands", {})):
        assert rest[0] in within, f"prelude has no command {rest[0]!r}"
        command = within[rest.pop(0)]
    return command, rest


def check_command(words: list[str]) -> None:
    """Raises where a command line could not work: an unknown command, option, choice, setting, target or extra."""
    match words:
        case ["prelude", *rest]:
            command, arguments = command_of(rest)
            try:
                given = command.make_context(command.name, arguments).params
                if given.get("set_") and given.get("config"):
                    load_config(ROOT / given["config"], given["set_"])
            except Exception as error:
                raise AssertionError(f"{' '.join(words)}: {error}") from error
        case ["accelerate", "launch", "--num_processes", number, "-m", "serving.cli", *rest]:
            assert int(number) > 1
            check_command(["prelude", *rest])
        case ["make", *targets]:
            for target in targets:
                assert re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE), target
        case ["python", "-m", module, *rest]:
            own = typer.Typer()
            own.command()(importlib.import_module(f"{module}.__main__").main)
            typer.main.get_command(own).make_context(module, rest)
        case ["curl", *rest]:
            assert "localhost:8000" in " ".join(rest)
        case ["pip", "install", what]:
            extra = what.removeprefix(".[").removesuffix("]")
            assert re.search(rf"^{extra} = \[", text_of("pyproject.toml"), re.MULTILINE), what
        case _:
            raise AssertionError(f"nobody knows how to check: {' '.join(words)}")


# -- what can run does ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in pages() if blocks(page)])
def test_every_block_that_can_run_does(page, small_run, tmp_path, monkeypatch):
    config, run = small_run
    furnish(tmp_path, config, run)
    monkeypatch.chdir(tmp_path)
    # which take seconds, and are drawn of the small run itself
    monkeypatch.setattr("evaluation.report.report._pictures", lambda *given: [])
    # workers are this process: tests/serving/playlists/test_workers.py and tests/serving/engines start real ones
    monkeypatch.setattr("serving.engines.choose.LocalEngine", lambda workers: Here())
    for block in blocks(page):
        if block.reason is None:
            print(f"-- {block}")
            RUN[block.language](block)


def run_python(block: Block) -> None:
    exec(compile(as_called(block.code), str(block), "exec"), {"__name__": "documents"})


def run_shell(block: Block) -> None:
    for words in block.commands():
        assert words[0] == "prelude", f"{block}: only commands of prelude are run here; mark the block"
        done = CliRunner().invoke(
            app, [as_called(word) for word in words[1:]], input="y\n", catch_exceptions=False
        )
        assert done.exit_code == 0, f"{block}: {' '.join(words)}\n{done.output}"


def read_settings(block: Block) -> None:
    RunConfig.model_validate(yaml.safe_load(block.code))


RUN = {"python": run_python, "sh": run_shell, "yaml": read_settings, "text": lambda block: None}


def as_called(text: str) -> str:
    return WORDS.sub(lambda match: CALLED[match[0]], text)


def furnish(folder: Path, config: RunConfig, run: Run) -> None:
    """The folder that the documents speak of: two runs, a configuration, and files of one's own."""
    demo = Run(shutil.copytree(run.path, folder / "runs" / "demo"))
    quick = config.evaluate.model_copy(update={"max_instances": 8, "bootstrap_samples": 100})
    demo.write_config(
        config.model_copy(update={"evaluate": quick}).model_dump(mode="json")
    )  # which no stage reads
    (folder / "configs").mkdir()
    (folder / "configs" / "demo.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "runs" / "mine").mkdir()
    (folder / "runs" / "mine" / "config.yaml").write_text(
        yaml.safe_dump(RunConfig.model_validate(LIGHT).model_dump(mode="json"))
    )
    own = {"uid": "uid", "iid": "sku", "ts": "ts"}
    events = pd.read_csv(config.prepare.interactions).rename(columns=own)
    items = pd.read_csv(config.prepare.items)
    events.to_csv(folder / "events.csv", index=False)
    items.rename(columns={"item_id": "sku"}).to_parquet(folder / "items.parquet")
    users, names = sorted(set(events["uid"])), list(items["item_id"])
    vectors = np.random.default_rng(0).normal(size=(len(users) + len(names), 8)).astype(np.float32)
    first = events.groupby("uid")["ts"].min()[users].to_numpy()  # vectors of everybody's first moment
    frames: dict[str, dict] = {
        "users.parquet": {"user_id": users, "timestamp": first, "vector": list(vectors[: len(users)])},
        "vectors.parquet": {"item_id": names, "vector": list(vectors[len(users) :])},
        "requests.parquet": {"request_id": ["a", "b", "c"], "user_id": ["u1", "u2", None], "query": ["even", None, "odd"]},
    }  # fmt: skip
    for name, columns in frames.items():
        pd.DataFrame(columns).to_parquet(folder / name)
    items_today(demo, folder / "today.csv")
    vectors_today(demo, folder / "today_vectors.parquet")
    events_yesterday(folder / "yesterday.csv")
    later = [(user, names[at], 2_000_000 + at) for at, user in enumerate(users[:3])]
    pd.DataFrame(later, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "new.csv", index=False)
    pd.DataFrame(
        list(shown(events, names)), columns=["user_id", "timestamp", "query", "item_id", "engaged"]
    ).to_csv(folder / "shown.csv", index=False)


def shown(events: pd.DataFrame, names: list[str]) -> Iterator[tuple[str, int, str, str, int]]:
    """A list of four for each of some moments of every user: two of their kind, which they engaged with, and two others."""
    for user, at in zip(events["uid"], events["ts"], strict=True):
        own = int(user[1:]) % 2
        for place in range(4):
            yield (
                user,
                int(at) + 1,
                ("even", "odd")[own],
                names[2 * place + (own + place // 2) % 2],
                int(place < 2),
            )
