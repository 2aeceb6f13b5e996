"""The command for a GPU: its parts name what is there, and its report shows what failed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from dense_xp.backend import BackendError, get_backend
from tests import on_a_gpu

ROOT = Path(__file__).parents[2]


def test_the_parts_are_there_and_take_eight_minutes_at_most() -> None:
    assert sum(limit for _, _, limit in on_a_gpu.parts()) <= 8 * 60
    for _, command, _ in on_a_gpu.parts():
        for word in command:
            assert not word.startswith("tests/") or (ROOT / word).exists(), word
    for program in (on_a_gpu.SMOKE, on_a_gpu.MEMORY):
        compile(program, "program", "exec")


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    python = sys.executable
    chosen = [
        ("good", [python, "-c", "print('fine')"], 20),
        ("bad", [python, "-c", "raise SystemExit('broken')"], 20),
        ("slow", [python, "-c", "import time; print('begun', flush=True); time.sleep(60)"], 2),
    ]
    assert on_a_gpu.report(chosen) == 2
    text = capsys.readouterr().out
    assert "## good\n\nexit status 0" in text
    assert "fine" in text
    assert "broken" in text
    assert "stopped after 2 s" in text
    assert "begun" in text


def test_without_a_device_it_says_so() -> None:
    with contextlib.suppress(BackendError):
        get_backend("cupy")
        pytest.skip("there is one")
    command = [sys.executable, "-m", "tests.on_a_gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing to run: the backend 'cupy'" in done.stderr
