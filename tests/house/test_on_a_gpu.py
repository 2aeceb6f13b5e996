"""The command for a GPU: its parts name what is there, and its report shows what failed."""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dense_xp.backend import BackendError, get_backend
from tests import conftest, on_a_gpu
from tests.stand_ins import cuda_on_host, cupy_on_host

ROOT = Path(__file__).parents[2]


def test_the_parts_are_there_and_take_eight_minutes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)  # with all that it uses where it is there
    assert on_a_gpu.parts()[-1][0] == "compute-sanitizer"
    assert sum(limit for _, _, limit in on_a_gpu.parts()) <= 8 * 60
    for _, command, _ in on_a_gpu.parts():
        for word in command:
            assert not word.startswith("tests/") or (ROOT / word).exists(), word
    for program in (on_a_gpu.SMOKE, on_a_gpu.MEMORY):
        compile(program, "program", "exec")


def collected(command: list[str]) -> set[str]:
    done = subprocess.run([*command, "--collect-only"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_every_test_of_a_device_is_chosen_and_none_of_a_stand_in() -> None:
    parts = {title: command for title, command, _ in on_a_gpu.parts()}
    for title in ("Kernels, graphs, products, feeding", "The rules of the stand-in"):
        command = parts[title]
        chosen = collected(command)
        everything = collected(command[: command.index("-k")])
        played = {name for name in everything if re.search("on-the-host|-stand-in", name)}
        real = {name for name in everything - played if re.search(r"[\[-]cupy[\]-]", name)}
        assert len(real) > 10
        assert real <= chosen, title
        assert not played & chosen, title
    others = "\n".join(collected(parts["Everything else"]))
    assert all(spec in others for spec in ("[cupy", *conftest.ON_A_GPU))
    assert len(conftest.ON_A_GPU) == 2


def test_masks_are_compared_with_those_of_the_host_first_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    if cupy_on_host.COMPILER is None:
        pytest.skip("the stand-in for CuPy needs a C++ compiler")
    assert on_a_gpu.parts()[0][1][-1].startswith(on_a_gpu.MASKS)
    random = cuda_on_host.kernels().cupy_random
    monkeypatch.setitem(sys.modules, "dense_xp.kernels.cupy_random", random)
    monkeypatch.setattr(importlib.import_module("dense_xp.kernels"), "cupy_random", random, raising=False)
    exec(on_a_gpu.MASKS, {})
    drawn = random.uniform_at_least
    monkeypatch.setattr(random, "uniform_at_least", lambda bound, shape, words: drawn(bound, shape, (*words[:3], 1)))
    with pytest.raises(SystemExit, match="not those of the host"):
        exec(on_a_gpu.MASKS, {})


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
