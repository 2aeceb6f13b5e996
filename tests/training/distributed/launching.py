"""Programs under a real ``mpiexec``; where there is none, the test is skipped, unless MPI is required."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import REQUIRED

ROOT = Path(__file__).parents[3]
DEADLINE = 300  # of a whole program; on a busy machine ranks wait for each other


class Done(NamedTuple):
    """How a program ended."""

    status: int
    said: str
    seconds: float


def mpiexec() -> str:
    """Return the launcher that stands beside this Python, or skip."""
    path = Path(sys.executable).with_name("mpiexec")
    if importlib.util.find_spec("mpi4py") is None or not path.exists():
        if "mpi" in REQUIRED:
            pytest.fail("mpi4py and mpich are required, and not installed")
        pytest.skip('mpi4py and mpich are not installed: pip install "dense-xp[mpi]"')
    return str(path)


def environment() -> dict[str, str]:
    """Return one thread for each rank, and the package of this tree."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def start(ranks: int, *program: str) -> subprocess.Popen[str]:
    """Start Python with these arguments on several processes; what they print is put together."""
    command = [mpiexec(), "-n", str(ranks), sys.executable, "-W", "error", *program]
    return subprocess.Popen(
        command, env=environment(), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finished(process: subprocess.Popen[str], within: float = DEADLINE) -> Done:
    """Wait for the end, which must come in time."""
    began = time.monotonic()
    try:
        said, _ = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        pytest.fail(f"it was still running after {within} s, and had said: {said}")
    return Done(process.returncode, said, time.monotonic() - began)


def run(ranks: int, *program: str, within: float = DEADLINE) -> Done:
    """Start a program, and wait for its end."""
    return finished(start(ranks, *program), within)
