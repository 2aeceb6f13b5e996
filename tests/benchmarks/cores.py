"""What a training step on NumPy would take on more cores: ``python -m tests.benchmarks.cores``.

A step is products and the rest: passes over memory and calls. Both are measured on one core and on two, in processes
that take turns. Of each a share is taken to be alone, and the other to be divided among the cores: Amdahl's law, fitted
to the two. What it says for 16 and 64 cores is on paper: memory that is shared, and caches that are not, are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from dense_xp.kernels.numpy import empty
from tests.benchmarks.peers import CONTENDERS, Task, bare_products

CASES = (
    ((784, 512, 512, 10), 128),
    ((1024, 2048, 2048, 1000), 512),
    ((3072, 1024, 512, 256, 10), 64),
    ((64, 32, 50000), 64),
    ((784, 2048, 2048, 10), 32),
)
MEASURED, ASKED = (1, 2), (1, 2, 16, 64)


def median(function: Callable[[], object], seconds: float = 1.0) -> float:
    """Return the median time of a call, after three that are not counted."""
    for _ in range(3):
        function()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def measure() -> list[tuple[float, float]]:
    """Return, for each case, the seconds of the products and of the step."""
    found = []
    for sizes, batch in CASES:
        task = Task.make(sizes, batch)
        multiplied = median(bare_products(task, lambda shape: empty(shape, np.dtype("float32"), None)))
        found.append((multiplied, median(CONTENDERS["dense_xp on numpy"](task))))
    return found


def on(cores: int, one: float, two: float) -> float:
    """Return a time by Amdahl's law, from those on one core and on two."""
    alone = min(max(2.0 * two / one - 1.0, 0.0), 1.0)
    return one * (alone + (1.0 - alone) / cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure()))
        return
    turns: dict[int, list[list[tuple[float, float]]]] = {threads: [] for threads in MEASURED}
    for _ in range(arguments.rounds):
        for threads, own in turns.items():
            variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
            program = [sys.executable, "-m", "tests.benchmarks.cores", "--measure"]
            done = subprocess.run(program, env=os.environ | variables, text=True, stdout=subprocess.PIPE, check=True)
            own.append(json.loads(done.stdout.splitlines()[-1]))
    print("milliseconds: step = products + rest; measured on 1 and 2 cores, on paper beyond")
    for i, (sizes, batch) in enumerate(CASES):
        parts = []
        for own in turns.values():
            multiplied, whole = (statistics.median(turn[i][j] for turn in own) for j in (0, 1))
            parts.append((multiplied, max(whole - multiplied, 0.0)))
        (p1, r1), (p2, r2) = parts
        told = [(n, on(n, p1, p2), on(n, r1, r2)) for n in ASKED]
        print(f"{'-'.join(map(str, sizes))}, batch {batch}")
        print("  " + "; ".join(f"{n}: {(p + r) * 1e3:.2f} = {p * 1e3:.2f} + {r * 1e3:.2f}" for n, p, r in told))


if __name__ == "__main__":
    main()
