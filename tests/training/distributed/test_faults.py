"""A rank that comes to grief ends all, and says who it was and why; from the last checkpoint it goes on."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dense_xp import describe, load
from dense_xp.training.distributed.watch import watched
from tests.training.distributed import faults, launching

MODULE = "tests.training.distributed.faults"
IN_TIME = 30.0  # seconds, after which a job must have ended
SIGTERM_STATUS = 128 + 15


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on two ranks to which nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = launching.run(2, "-m", MODULE, "nothing", str(folder))
    assert done.status == 0, done.said
    return folder / "nothing.safetensors"


def weights(path: Path) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in load(path).weights.items()}


def come_to_grief(way: str, folder: Path, ranks: int = 2) -> launching.Done:
    """Let a training fail; it must end in time after that."""
    done = launching.run(ranks, "-m", MODULE, way, str(folder))
    assert done.status != 0, done.said
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():  # the start of a program takes its time on a busy machine, and is not meant
        assert time.time() - checkpoint.stat().st_mtime < IN_TIME
    return done


def go_on(folder: Path, ranks: int) -> dict[str, Any]:
    done = launching.run(ranks, "-m", MODULE, "resume", str(folder))
    assert done.status == 0, done.said
    return weights(folder / "resume.safetensors")


@pytest.mark.parametrize("way", ["raise", "kill"])
def test_a_rank_that_fails_ends_all_and_the_training_goes_on(way: str, tmp_path: Path, undisturbed: Path) -> None:
    done = come_to_grief(way, tmp_path)
    if way == "raise":
        assert "rank 1 of 2 ended the training: ZeroDivisionError: the numbers are against us" in done.said
    else:  # the launcher names the process and the signal, and which rank that is was said at the start
        number = done.said.partition("rank 1 is ")[2].partition(" ")[0]
        assert number.isdigit()
        assert f"PID {number} " in done.said or "is gone" in done.said
    assert describe(tmp_path / "checkpoint.safetensors")["history"].epochs == 2
    want = weights(undisturbed)
    for name, value in go_on(tmp_path, 2).items():
        np.testing.assert_array_equal(value, want[name])
    for name, value in go_on(tmp_path, 3).items():
        np.testing.assert_allclose(value, want[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("before", "rank 1 of 2 ended the training: LookupError: the file is somewhere else"),
        ("data", "rank 1 was given other things than rank 0: X is (300, 64) there and (360, 64) on rank 0"),
        ("label", "RankError: rank 1 of 2: ValueError: "),
        ("callback", "OSError: the disk is full"),
    ],
)
def test_what_one_rank_cannot_do_is_said_and_ends_all(way: str, why: str, tmp_path: Path) -> None:
    assert why in come_to_grief(way, tmp_path).said


@pytest.mark.parametrize(
    ("way", "error", "steps"),
    [
        ("diverge", "DivergenceError", 0),
        ("interrupt", "KeyboardInterrupt", faults.WHEN),
        ("interrupt before the first step", "KeyboardInterrupt", 1),
    ],
)
def test_what_all_ranks_know_of_can_be_caught(way: str, error: str, steps: int, tmp_path: Path) -> None:
    done = launching.run(2, "-m", MODULE, way, str(tmp_path))
    assert done.status == 0, done.said
    assert f"all caught [('{error}', {steps}), ('{error}', {steps})]" in done.said


def test_a_batch_system_that_ends_it_gets_a_checkpoint_first(tmp_path: Path) -> None:
    """SIGTERM to one rank: all end after the step in which it came."""
    done = come_to_grief("terminate", tmp_path)
    assert done.status == SIGTERM_STATUS, done.said
    assert "Traceback" not in done.said
    found = load(tmp_path / "checkpoint.safetensors")
    assert found.steps == faults.WHEN
    assert describe(tmp_path / "checkpoint.safetensors")["history"].epochs == 2
    go_on(tmp_path, 2)


def test_so_it_does_if_the_launcher_is_told(tmp_path: Path) -> None:
    process = launching.start(2, "-m", MODULE, "wait", str(tmp_path))
    checkpoint = tmp_path / "checkpoint.safetensors"
    until = time.monotonic() + launching.DEADLINE
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    done = launching.finished(process, IN_TIME)
    assert done.status == SIGTERM_STATUS, done.said
    assert load(checkpoint).steps > faults.STEPS


def test_a_signal_after_the_last_step_ends_it_too(tmp_path: Path) -> None:
    done = come_to_grief("terminate after the last step", tmp_path)
    assert done.status == SIGTERM_STATUS, done.said
    assert load(tmp_path / "checkpoint.safetensors").steps == faults.EPOCHS * faults.STEPS


class _Ranks:
    """Two ranks on this machine, of which the other one is a process without MPI."""

    rank, size = 0, 2

    def __init__(self, other: int) -> None:
        self.places = [("here", os.getpid()), ("here", other)]
        self.ended: queue.Queue[str] = queue.Queue()
        self.comm = SimpleNamespace(Barrier=lambda: None)

    def abort(self, why: str) -> None:
        self.ended.put(why)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no descriptors of processes")
@pytest.mark.parametrize("leaves", [True, False])
def test_a_rank_that_leaves_without_a_word_is_noticed(leaves: bool) -> None:
    other = subprocess.Popen(["sleep", "60"])
    ranks: Any = _Ranks(other.pid)
    with watched(ranks):
        if leaves:
            other.kill()
            assert ranks.ended.get(timeout=IN_TIME) == f"rank 1 of 2 (process {other.pid}) is gone"
    other.kill()
    other.wait()
    assert ranks.ended.empty()
