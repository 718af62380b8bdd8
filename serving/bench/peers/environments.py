"""An environment for each set of pins, made once, and scripts run in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from serving.bench.peers.contract import SAID

ROOT = (
    Path(__file__).resolve().parents[3]
)  # of the checkout: scripts import serving.bench.peers.contract from it
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerError(Exception):
    """A peer that could not be installed or did not end well; its row says why."""


def python_of(pins: Path | None, folder: Path, show: Callable[[str], None]) -> Path:
    """The interpreter that a peer runs by: Prelude's own without `pins`, else of an environment in `folder` with them.

    An environment is made anew when its pins have changed. Raises `PeerError` with pip's last word.
    """
    if pins is None:
        return Path(sys.executable)
    home = folder / pins.stem
    python, note = home / "bin" / "python", home / ".installed"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    if note.exists() and note.read_text() == wanted:
        return python
    show(f"installing {pins.name} into {home}")
    venv.create(home, clear=True, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(pins)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(f"{pins.name} could not be installed: {_last_word(done.stderr) or done.returncode}")
    note.write_text(wanted)
    return python


def run_script(
    python: Path, module: str, arguments: list[str], log: Path, threads: int, show: Callable[[str], None]
) -> None:
    """Run a peer's script to its end, all that it prints into `log`, its own lines shown. Raises `PeerError`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        **dict.fromkeys(THREADS, str(threads)),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(python), "-m", module, *arguments]
    with log.open("w") as file, subprocess.Popen(
        command, cwd=log.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                if line.startswith(SAID):
                    show(line.removeprefix(SAID).rstrip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise PeerError(
            f"{module} ended with {process.returncode}: {_last_word(log.read_text())} (see {log})"
        )


def _last_word(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
