"""The growth table: what is measured of a process, exponents of known powers, and what goes wrong."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from serving.bench.growth import table
from serving.bench.growth.measure import Measured, measure, read, write
from serving.bench.growth.stages import STAGES, command, default_size

SIZES = [default_size(events, 1000) for events in (10_000, 100_000, 1_000_000)]


def grown(stage: str, power: float, memory: float) -> list[Measured]:
    """What a stage would measure whose seconds and bytes are exact powers of the events."""
    return [
        Measured(stage, size, size.events**power, 2e-5 * size.events**power, int(1e6 * size.events**memory))
        for size in SIZES
    ]


def test_exponents_are_those_of_the_powers():
    rows = grown("embed", 1.5, 0.5)
    assert table.exponent(rows, "cpu_s") == pytest.approx(1.5)
    assert table.exponent(rows, "peak_bytes") == pytest.approx(0.5, abs=1e-6)
    assert table.exponent(rows[:1], "cpu_s") is None
    assert table.beyond(rows, "cpu_s", 100) == pytest.approx(2e-5 * 1e8**1.5)


def test_what_a_command_costs_before_it_does_anything_is_set_aside():
    rows = grown("embed", 1.0, 0.5)  # 0.2, 2 and 20 s
    slow = [replace(one, cpu_s=one.cpu_s + 1) for one in rows]
    assert table.exponent(slow, "cpu_s") < 0.9
    assert table.exponent(slow, "cpu_s", base=1.0) == pytest.approx(1.0)
    assert table.beyond(slow, "cpu_s", 10, base=1.0) == pytest.approx(1 + 200)
    start = Measured("start", SIZES[0], 3.0, 1.0, 1 << 20)
    assert table.base_of([start, *slow], "cpu_s") == 1
    small = [replace(one, cpu_s=1.9) for one in rows]
    assert table.exponent(small, "cpu_s", base=1.0) is None, "noise has no exponent"


def test_what_a_stage_costs_whatever_the_size_does_not_hide_what_an_event_more_costs():
    rows = [replace(one, cpu_s=5 + 2e-6 * one.size.events) for one in grown("adapt", 1.0, 0.5)]
    assert table.exponent(rows, "cpu_s", base=1.0) < 0.2
    assert table.beyond(rows, "cpu_s", 100, base=1.0) == pytest.approx(5 + 2e-6 * 1e8)
    assert table.beyond(rows[:1], "cpu_s", 100) is None
    shrunk = [replace(one, cpu_s=9 - 1e-6 * one.size.events) for one in rows]
    assert table.beyond(shrunk, "cpu_s", 10) == pytest.approx(8.0), "not below what was measured"


def test_the_table_says_what_grows_too_fast_and_what_failed():
    rows = [*grown("prepare", 1.0, 1.0), *grown("embed", 1.8, 1.0)]
    rows.append(Measured("adapt", SIZES[0], 3.0, 2.0, 10, "ended after 3 s"))
    text = table.markdown(rows)
    assert "- embed: CPU seconds grow faster than the events, by their power 1.80" in text
    assert "- adapt at 10000 events: ended after 3 s" in text
    assert "prepare: CPU" not in text
    line = next(line for line in text.splitlines() if line.startswith("| prepare"))
    assert [cell.strip() for cell in line.split("|")][2:8] == ["0.2", "2", "20", "1.00", "200", "2,000"]
    assert table.picture(rows).startswith(b"\x89PNG")


def test_a_process_is_measured_with_all_below_it(tmp_path):
    code = (
        "import subprocess, sys\n"
        "held = bytearray(80 << 20)\n"
        "subprocess.run([sys.executable, '-c', 'import time; held = bytearray(60 << 20); sum(range(3_000_000)); time.sleep(.5)'])"
    )
    found = measure("load", SIZES[0], [sys.executable, "-c", code], tmp_path / "log", 60)
    assert found.failed is None
    assert found.cpu_s > 0.01
    assert 140 << 20 < found.peak_bytes < 400 << 20


@pytest.mark.parametrize(
    ("code", "limit", "said"),
    [("print('so'); raise SystemExit(3)", 60, "exit status 3: so"), ("import time; time.sleep(60)", 0.3, "ended after 0.3 s")],
)  # fmt: skip
def test_what_fails_says_why(tmp_path, code, limit, said):
    found = measure("load", SIZES[0], [sys.executable, "-c", code], tmp_path / "log", limit)
    assert found.failed == said
    assert found.seconds < 30


def test_what_was_measured_is_kept(tmp_path):
    rows = grown("embed", 1.0, 1.0)
    write(tmp_path / "growth.json", rows)
    assert read(tmp_path / "growth.json") == rows
    assert read(tmp_path / "nothing.json") == []


def test_every_stage_has_a_command(tmp_path):
    for stage in STAGES:
        words = command(stage, SIZES[0], tmp_path, tmp_path / "growth.yaml", "e2p")
        assert words[0] == sys.executable
        assert all(isinstance(word, str) for word in words)
