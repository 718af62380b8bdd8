"""A folder that somebody sent: opening, asking about and importing it changes nothing, inside it or outside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving import Recommender
from serving.export.folder import SUMS, export_run, import_run, verify
from serving.playlists.plan import Settings, refuse_impossible
from tests.support.command_line import prelude
from tests.support.exports import HISTORY
from tests.support.records import made_with


@pytest.fixture
def beside(tmp_path):
    path = tmp_path / "beside.txt"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


@pytest.fixture
def sent(nobody, tmp_path) -> Path:
    """A small export that may be spoiled."""
    return shutil.copytree(nobody, tmp_path / "sent")


def summed(folder: Path) -> None:
    """The sums of what is there now: whoever sends a folder can make them."""
    names = sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != SUMS
    )
    (folder / SUMS).write_text("".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))


def openings(monkeypatch, capsys) -> dict[str, Callable[[Path], object]]:
    def command(*arguments) -> None:
        code, _, error = prelude(monkeypatch, capsys, *arguments)
        if code:
            raise RunError(error)

    return {
        "load": Recommender.load,
        "verify": verify,
        "import": lambda folder: import_run(folder, folder.with_name("imported")),
        "export": lambda folder: export_run(folder, folder.with_name("exported")),
        "status": lambda folder: command("status", folder),
        "show": lambda folder: command("user", folder, "show", "--id", "u3"),
        "update": lambda folder: command("update", folder, "--events", folder.with_name("beside.txt")),
    }


def state(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("remove", [["embed"], ["../beside.txt"], ["ABSOLUTE"]])
def test_a_journal_that_came_along_is_run_by_nothing(sent, beside, monkeypatch, capsys, remove, listed):
    """Also where the sums name it, and whatever it would do: inside the folder, or beside it."""
    names = [str(beside) if name == "ABSOLUTE" else name for name in remove]
    (sent / ".rewrite" / "new").mkdir(parents=True)
    (sent / ".rewrite" / "new" / "config.yaml").write_text("{}")
    deed = {"replace": ["config.yaml"], "remove": names}
    (sent / ".rewrite" / "journal.json").write_text(json.dumps(deed))
    if listed:
        summed(sent)
    before = state(sent)
    for name, opening in openings(monkeypatch, capsys).items():
        with pytest.raises(RunError, match=r"\.rewrite"):
            opening(sent)
        assert state(sent) == before, name
    assert {path.name for path in sent.parent.iterdir()} == {"sent", "beside.txt"}


def test_sums_that_name_what_is_hidden_or_behind_a_link_are_refused(sent, beside, tmp_path):
    good = (sent / SUMS).read_text()
    digest = sha256_of(beside)
    for name in ("../beside.txt", str(beside), ".lock", "adapt/.x", ".partial-adapt/stage.json"):
        (sent / SUMS).write_text(good + f"{digest}  {name}\n")
        with pytest.raises(RunError, match=f"{SUMS}:.*expected a sha256"):
            import_run(sent, tmp_path / "imported")
    (sent / "link.txt").symlink_to(beside)
    (sent / SUMS).write_text(good + f"{digest}  link.txt\n")  # it has the hash that the sums give it
    with pytest.raises(RunError, match=r"link\.txt' is a link"):
        import_run(sent, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_an_artifact_that_is_a_link_out_is_not_read(sent, tmp_path):
    path = sent / "adapt" / "sid_rows.safetensors"
    shutil.move(path, tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    with pytest.raises(RunError, match="is a link"):
        Recommender.load(sent).recommend("anyone", history=HISTORY)
    with pytest.raises(RunError, match="is a link"):
        export_run(sent, tmp_path / "out")


def told(folder: Path, change: Callable[[dict], None]) -> None:
    """A change of the settings in all that says them: the configuration, the stages' records and the sums."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    change(values)
    made_with(folder, values)
    summed(folder)


def with_encoder(values: dict, name: str) -> None:
    for method in values["personalize"]["methods"]:
        if method["key"] == "p2p":
            method["encoder"] = name


def with_summaries(values: dict, name: str) -> None:
    for method in values["personalize"]["methods"]:
        if method["key"] == "pag":
            method["summaries"] = name


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        (lambda values: values["adapt"]["backbone"].update(name="somebody/model"), "adapt.backbone.name"),
        (lambda values: values["adapt"]["backbone"].update(name="/elsewhere"), "adapt.backbone.name"),
        (lambda values: values["embed"].update(text_encoder="/elsewhere"), "embed.text_encoder"),
        (lambda values: with_encoder(values, "/elsewhere"), r"personalize.methods\[p2p\].encoder"),
        (lambda values: with_summaries(values, "/elsewhere/s.parquet"), r"personalize.methods.*.summaries"),
        (lambda values: with_summaries(values, "../s.parquet"), r"personalize.methods.*.summaries"),
    ],
)
def test_an_export_names_no_model_and_no_file_that_its_manifest_does_not_hash(
    sent, tmp_path, change, setting
):
    told(sent, change)
    for opening in (Recommender.load, verify, lambda folder: export_run(folder, tmp_path / "out")):
        with pytest.raises(RunError, match=f"{setting} is "):
            opening(sent)


def test_the_hash_of_the_backbone_is_the_manifests(sent):
    path = sent / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["exported"]["backbone"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        RunError, match=r"adapt\.backbone\.name is 'tiny-random', whose hash .* does not have"
    ):
        Recommender.load(sent)


def test_an_encoder_of_ones_own_is_hashed_and_another_in_its_place_refused(small_run, tmp_path):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    run = Run.open(shutil.copytree(small_run[1].path, tmp_path / "run"))
    told(run.path, lambda values: with_encoder(values, str(encoder)))
    (run.path / SUMS).unlink()
    export_run(run.path, tmp_path / "out")
    assert list(json.loads((tmp_path / "out" / "manifest.json").read_text())["exported"]["models"]) == [
        str(encoder)
    ]
    Recommender.load(tmp_path / "out")
    export_run(tmp_path / "out", tmp_path / "second")
    (encoder / "more.bin").write_text("")
    for place in ("out", "second"):
        with pytest.raises(
            RunError, match=r"methods\[p2p\]\.encoder is .* not the one that the run was made with"
        ):
            Recommender.load(tmp_path / place)
    shutil.rmtree(encoder)
    Recommender.load(tmp_path / "out").recommend("anyone", method="no_context", history=HISTORY)
    with pytest.raises(ValueError, match="no folder here, so its hash cannot be exported"):
        export_run(run.path, tmp_path / "third")


def test_encoders_that_answers_do_not_need_are_not_named(small_run, tmp_path):
    run = Run.open(shutil.copytree(small_run[1].path, tmp_path / "run"))
    told(run.path, lambda values: values["embed"].update(text_encoder="/my/home/encoder"))
    (run.path / SUMS).unlink()
    export_run(run.path, tmp_path / "out")
    assert import_run(tmp_path / "out", tmp_path / "imported")
    assert "/my/home" not in (tmp_path / "imported" / "config.yaml").read_text()
    assert len(Recommender.load(tmp_path / "imported").recommend("u3", n=4)) == 4


def test_a_changed_setting_of_an_export_is_refused_in_place(sent):
    values = yaml.safe_load((sent / "config.yaml").read_text())
    values["adapt"]["prompts"]["recent_items"] = 1
    (sent / "config.yaml").write_text(yaml.safe_dump(values))
    for opening in (
        Recommender.load,
        lambda folder: refuse_impossible(Run.open(folder), Settings(method="e2p")),
    ):
        with pytest.raises(
            RunError, match=r"adapt\.prompts\.recent_items was 2 .* and is 1.*Export the run again"
        ):
            opening(sent)
