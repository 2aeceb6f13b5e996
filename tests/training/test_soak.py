"""The soak of :mod:`tests.training.soak`: its long run, a short one, and faults that it must notice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training import soak

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a process holds is read from /proc")


def apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.training.soak", *map(str, arguments)],
        cwd=soak.ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_ten_minutes_of_everything() -> None:
    done = apart(600, 0)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


def test_some_seconds_of_full_disks(tmp_path: Path) -> None:
    done = apart("disk", 1.5, 0, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout


# ------------------------------------------------------------------------------------- planted faults


def leave_a_file(shared: soak.Shared) -> None:
    (shared.folder / ".dense_xp-0-1-2.tmp").touch()


def leave_a_descriptor(shared: soak.Shared) -> None:
    os.dup(0)


GOES_ON = threading.Event()


def leave_a_thread(shared: soak.Shared) -> None:
    threading.Thread(target=GOES_ON.wait, daemon=True).start()


KEPT: list[Any] = []


def leave_memory(shared: soak.Shared) -> None:
    KEPT.append(b"\1" * 2**25)  # more than what other threads may give back meanwhile


def change_a_weight(shared: soak.Shared) -> None:
    """As a training would that works on arrays of the model that others read."""
    shared.model.layers[0].params["W"][0, 0] *= 1.000001


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (leave_a_file, r"left over: \['.dense_xp-0-1-2.tmp'\]"),
        (leave_a_descriptor, "descriptors grew"),
        (leave_a_thread, "threads grew"),
        (leave_memory, "mebibytes grew"),
        (change_a_weight, "other bits"),
    ],
)
def test_eight_threads_and_a_fault(
    fault: Callable[[soak.Shared], None], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves, began, last = soak.Shared.saves, time.monotonic(), [0.0]
    GOES_ON.clear()

    def faulty(shared: soak.Shared, rng: random.Random) -> None:
        saves(shared, rng)
        if time.monotonic() > last[0] + 0.05:
            last[0] = time.monotonic()
            fault(shared)

    faulty.__name__ = "saves"
    monkeypatch.setattr(soak.Shared, "saves", faulty)
    with pytest.raises(AssertionError, match=complaint):
        soak.threads(1.0, 0, tmp_path)
    assert time.monotonic() - began < 60
    KEPT.clear()
    GOES_ON.set()
