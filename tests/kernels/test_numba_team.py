"""The threads that wait for compiled work: who compiles it, and how they end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

pytest.importorskip("numba")

from dense_xp.kernels import numba_team
from dense_xp.kernels.numba_team import Team


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_team, "allowed_threads", lambda: 2)


def test_the_caller_compiles_before_there_is_a_thread() -> None:
    first: list[threading.Thread] = []
    team = Team(lambda *_: first.append(threading.current_thread()), 1)
    assert team.take(1) == 1
    team.give_back()
    team.end()
    assert first[0] is threading.current_thread()


def test_who_is_interrupted_while_it_compiles_leaves_the_team_free() -> None:
    calls = 0

    def serve(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt

    team = Team(serve, 1)
    with pytest.raises(KeyboardInterrupt):
        team.take(1)
    assert team.take(1) == 1
    team.give_back()
    team.end()


def test_the_end_waits_for_a_thread_that_is_late() -> None:
    def serve(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(1.5)

    team = Team(serve, 1)
    team.take(1)
    team.give_back()
    (thread,) = team._threads
    team.end()
    assert not thread.is_alive()
    assert team.take(1) == 0


def test_a_process_that_predicts_once_ends_well() -> None:
    code = """
from dense_xp import Dense, Sequential
import numpy as np
model = Sequential([Dense(128, activation="relu"), Dense(2)], input_shape=(64,), backend="numpy")
model.initialize()
model.predict(np.ones((600, 64), dtype="float32"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
