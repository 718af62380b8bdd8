"""`make check`: lint, types, and the tests of the rooms that differ from main, without those that stand on whole runs.

    python -m tests.support.check [--only-say] [options of pytest]

On main itself, and where there is no main, the last commit is what one differs from. Types are checked beside the tests: without a
cache that takes one core a minute, of which nobody has to wait for more than what is left of it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from tests.support.paths import ROOT

ROOMS = ("recsys", "semantic_ids", "llm", "evaluation", "serving")
QUICK = "not slow and not gpu and not whole_run"
BETWEEN = tuple(f"tests/whole/test_{name}.py" for name in ("rooms", "walls", "docs"))


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def base() -> str:
    """The commit that what is here is compared with."""
    head, common = git("rev-parse", "HEAD"), git("merge-base", "HEAD", "main")
    return common if common not in ("", head) else git("rev-parse", "HEAD~1") or head


def changed(since: str) -> list[str]:
    """Files that differ from a commit, those that git does not know yet too."""
    listed = git("diff", "--name-only", since), git("ls-files", "--others", "--exclude-standard")
    return sorted({name for names in listed for name in names.splitlines()})


def rooms_of(files: list[str], imports: dict[str, str]) -> list[str]:
    """Rooms that hold a file or whose tests, {path: source}, name a changed module of tests/support."""
    rooms = set()
    for file in files:
        parts = file.split("/")
        rooms |= set(parts[:1]) | set(parts[1:2] if parts[0] == "tests" else ())
        if parts[:2] == ["tests", "support"]:
            name = "tests.support." + parts[-1].removesuffix(".py")
            rooms |= {path.split("/")[1] for path, source in imports.items() if name in source}
    return [room for room in ROOMS if room in rooms]


def main() -> int:
    since = base()
    files = changed(since)
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in (ROOT / "tests").glob("*/**/*.py")
    }
    rooms = rooms_of(files, sources)
    print(f"{len(files)} files differ from {git('log', '-1', '--format=%h (%s)', since)}")
    print(f"rooms: {', '.join(rooms) or 'none'}; what stands on whole runs is for `make test`", flush=True)
    if "--only-say" in sys.argv:
        return 0
    for lint in (["ruff", "check", "."], ["ruff", "format", "--check", "."]):
        if failed := subprocess.call([sys.executable, "-m", *lint], cwd=ROOT):
            return failed
    paths = [*BETWEEN, *(f"tests/{room}" for room in rooms)]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        types = subprocess.Popen([sys.executable, "-m", "mypy"], cwd=ROOT, stdout=said, stderr=said)
        tests = subprocess.call(
            [sys.executable, "-m", "pytest", *sys.argv[1:], "-m", QUICK, *paths], cwd=ROOT
        )
        print(f"tests: {time.monotonic() - started:.0f} s; waiting for mypy", flush=True)
        wrong = types.wait()
        said.seek(0)
        print(said.read().strip())
    return tests or wrong


if __name__ == "__main__":
    sys.exit(main())
