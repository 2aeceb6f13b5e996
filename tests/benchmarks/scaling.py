"""How a training on several ranks scales: ``python -m tests.benchmarks.scaling``; docs/scaling.md explains the model.

Measured are steps of ``fit`` on one process with two threads and with one, on 2 and on 4 ranks with one thread each,
and all-reduces of some sizes. Each setting is a program of its own, and they take turns; numbers are medians. A model
of three parts is fitted to them: products, passes over memory, all-reduce. Then the model says, with the numbers of a
data sheet, what it would be on many GPUs. It takes two minutes, and needs ``pip install "dense-xp[mpi]"``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dense_xp import Adam, Dense, Ranks, Sequential

Sizes = tuple[int, ...]
DIGITS: Sizes = (784, 512, 512, 10)
CASES: tuple[tuple[Sizes, int], ...] = ((DIGITS, 128), (DIGITS, 512), (DIGITS, 1024), ((64, 100, 10), 512))
SETTINGS = ((1, 2), (1, 1), (2, 1), (4, 1))  # ranks, threads of each
STEPS, EPOCHS = 6, 4  # the first epoch is not counted


# ------------------------------------------------------------------------------------- what a step does


def parameters(sizes: Sizes) -> int:
    return sum((n + 1) * m for n, m in pairwise(sizes))


def flops(sizes: Sizes, rows: float) -> float:
    """Return those of the products: forward, for the weights, and for the inputs of all layers but the first."""
    return 2.0 * rows * (3 * sum(n * m for n, m in pairwise(sizes)) - sizes[0] * sizes[1])


def passed(sizes: Sizes, rows: float) -> float:
    """Return the bytes that go through memory beside the products, in float32.

    Adam reads the weights, their gradient and two means, and writes three of them. A layer's outputs are read and
    written forward, and read twice and written backward; inputs are gathered.
    """
    return 4.0 * (7 * parameters(sizes) + rows * (5 * sum(sizes[1:]) + 2 * sizes[0]))


BYTES = (*(4**k for k in range(5, 13)), 4 * parameters(DIGITS))  # 1 KiB to 16 MiB, and gradients


# ------------------------------------------------------------------------------------- measured


def measure(ranks: Ranks | None) -> dict[str, Any]:
    """Return the seconds of a step in each case, and of all-reduces, as this rank sees them."""
    found: dict[str, Any] = {"steps": [], "sums": []}
    rng = np.random.default_rng(0)
    for sizes, batch in CASES:
        X = rng.standard_normal((STEPS * batch, sizes[0]), dtype="float32")
        y = rng.integers(0, sizes[-1], STEPS * batch)
        model = Sequential([*(Dense(n, activation="relu") for n in sizes[1:-1]), Dense(sizes[-1])], rng=0)
        ends: list[float] = []
        watch = [lambda run, ends=ends: ends.append(time.perf_counter())]
        model.fit(X, y, EPOCHS, batch, optimizer=Adam(1e-3), callbacks=watch, verbose=False, distributed=ranks)
        found["steps"].append(statistics.median(b - a for a, b in pairwise(ends)) / STEPS if ends else 0.0)
    for size in BYTES if ranks else ():
        array = np.ones(size // 4, "float32")
        times = []
        for _ in range(30 if size < 2**17 else 8):
            ranks.comm.Barrier()
            begun = time.perf_counter()
            ranks.sum(array)
            times.append(time.perf_counter() - begun)
        found["sums"].append(statistics.median(times))
    return found


def measured(n: int, threads: int) -> dict[str, Any]:
    """Return what :func:`measure` finds on so many ranks with so many threads each."""
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))}
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(n)] if n > 1 else []
    program = [*launcher, sys.executable, "-m", "tests.benchmarks.scaling", "--measure", str(n)]
    done = subprocess.run(
        program, env={**environment, "NUMBA_NUM_THREADS": str(threads)}, text=True, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ------------------------------------------------------------------------------------- fitted


def least_squares(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Return coefficients, none below zero, that make the relative errors small."""
    A, kept = np.asarray(columns).T / np.asarray(seconds)[:, None], list(range(len(columns)))
    while True:
        unit = np.abs(A[:, kept]).max(axis=0)
        found = np.linalg.lstsq(A[:, kept] / unit, np.ones(len(A)), rcond=None)[0] / unit
        if (found >= 0).all() or len(kept) == 1:
            return [float(found[kept.index(i)]) if i in kept else 0.0 for i in range(len(columns))]
        del kept[int(found.argmin())]


def fitted(rounds: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Print all-reduces and steps, measured and fitted, and the efficiency of two ranks."""
    cores = len(os.sched_getaffinity(0))
    sums: dict[int, tuple[float, ...]] = {1: (0.0, 0.0)}
    print(f"\n{'all-reduce':>12} {'ranks':>6} {'measured':>12} {'fitted':>12}")
    for (n, _), found in rounds.items():
        if n == 1:
            continue
        sums[n] = alpha, beta = tuple(least_squares([[1.0] * len(BYTES), BYTES], found["sums"]))
        for size, seconds in zip(BYTES, found["sums"], strict=True):
            print(f"{size:10} B {n:6} {seconds * 1e6:9.1f} µs {(alpha + beta * size) * 1e6:9.1f} µs")
        print(f"{n} ranks: α = {alpha * 1e6:.1f} µs, 1/β = {1e-9 / max(beta, 1e-15):.2f} GB/s")
    rows = []
    for (n, threads), found in rounds.items():
        if threads == 1:
            share = n / min(n, cores)  # of the ranks on one core
            for (sizes, batch), seconds in zip(CASES, found["steps"], strict=True):
                alpha, beta = sums[n]
                reduced = alpha + 4 * parameters(sizes) * beta
                work = [share * flops(sizes, batch / n), share * passed(sizes, batch / n), share]
                rows.append((n, sizes, batch, seconds, reduced, work))
    # the part of an all-reduce is known, and at most nine tenths of what was measured
    left = [max(seconds - reduced, 0.1 * seconds) for *_, seconds, reduced, _ in rows]
    per_flop, per_byte, fixed = least_squares(list(zip(*(row[-1] for row in rows), strict=True)), left)
    print(
        f"\none core: {1e-9 / max(per_flop, 1e-15):.1f} Gflop/s, {1e-9 / max(per_byte, 1e-15):.1f} GB/s, "
        f"{fixed * 1e6:.0f} µs a step"
    )
    print(f"{'network':>18} {'batch':>6} {'ranks':>6} {'measured':>11} {'fitted':>11}  products, passes, fixed, sum")
    for n, sizes, batch, seconds, reduced, (f, b, c) in rows:
        parts = [f * per_flop, b * per_byte, c * fixed, reduced]
        shown = ", ".join(f"{part * 1e3:.2f}" for part in parts)
        print(f"{name(sizes):>18} {batch:6} {n:6} {seconds * 1e3:8.2f} ms {sum(parts) * 1e3:8.2f} ms  {shown}")
    print("\n2 ranks with a thread each, beside one process with two threads:")
    for i, (sizes, batch) in enumerate(CASES):
        two, one = rounds[2, 1]["steps"][i], rounds[1, 2]["steps"][i]
        print(f"  {name(sizes)}, batch {batch}: {two * 1e3:.2f} and {one * 1e3:.2f} ms, efficiency {one / two:.2f}")


def name(sizes: Sizes) -> str:
    return "-".join(map(str, sizes))


# ------------------------------------------------------------------------------------- on paper


class Machine(NamedTuple):
    """GPUs, eight to a node: NVIDIA's data sheets of the H100 SXM and ConnectX-7, and the latencies that NCCL assumes.

    Rates are in units a second, times in seconds.
    """

    flops: float
    memory: float = 3.35e12
    nvlink: float = 450e9  # each way
    adapter: float = 50e9  # each way; one for each GPU
    reached: float = 0.7  # of flops and memory, by real kernels
    carried: float = 0.92  # of the wire: NCCL's LL128 protocol
    launch: float = 3e-6  # of a kernel
    node: int = 8

    def step(self, sizes: Sizes, rows: float) -> float:
        """Return the time of a step on one GPU: products and passes, six kernels for each layer."""
        work = flops(sizes, rows) / self.flops + passed(sizes, rows) / self.memory
        return work / self.reached + 6 * (len(sizes) - 1) * self.launch

    def ring(self, n: int, size: float) -> float:
        """Return the time of an all-reduce in a ring."""
        nodes = -(-n // self.node)
        latency = 10e-6 + 2 * (n - nodes) * 1.9e-6 + 2 * (nodes - 1) * 4.0e-6
        return latency + 2 * (n - 1) / n * size / self._wire(n)

    def tree(self, n: int, size: float) -> float:
        """Return the time of an all-reduce in two trees."""
        within, nodes = min(n, self.node), -(-n // self.node)
        return 4.4e-6 + 2 * ((within - 1) * 1.2e-6 + math.log2(nodes) * 8.5e-6) + 2 * size / self._wire(n)

    def _wire(self, n: int) -> float:
        return self.carried * (self.nvlink if n <= self.node else min(self.nvlink, self.node * self.adapter))

    def on(self, n: int, sizes: Sizes, rows: float) -> float:
        """Return the time of a step on n GPUs with so many rows each."""
        size = 4.0 * parameters(sizes)
        return self.step(sizes, rows) + (min(self.ring(n, size), self.tree(n, size)) if n > 1 else 0.0)


H100 = {"float32": Machine(67e12), "TF32": Machine(495e12)}
NETWORKS: tuple[tuple[Sizes, int], ...] = (
    (DIGITS, 512),
    ((1024, 2048, 2048, 1000), 4096),
    ((4096, 16384, 16384, 4096), 4096),
)
GPUS = tuple(2**k for k in range(15))


def where(holds: Callable[[int], bool]) -> str:
    """Return up to how many GPUs something holds."""
    most = [n for n in GPUS if holds(n)]
    return f"{most[-1]:,}" + (" and more" if most[-1] == GPUS[-1] else "")


def on_paper() -> None:
    """Print what the model says for many GPUs, and where it stops to scale."""
    print("\nweak scaling: so many rows on each GPU; time of a step, and efficiency")
    shown = (1, 8, 64, 1024)
    for sizes, rows in NETWORKS:
        for kind, machine in H100.items():
            times = [machine.on(n, sizes, rows) for n in shown]
            told = ", ".join(f"{n}: {t * 1e3:.3f} ms {times[0] / t:.2f}" for n, t in zip(shown, times, strict=True))
            half = where(lambda n: machine.on(1, sizes, rows) >= 0.5 * machine.on(n, sizes, rows))  # noqa: B023
            print(f"  {name(sizes)}, {rows} rows, {kind}: {told}; above one half up to {half}")
    print("\nstrong scaling: so many rows in all; times as fast as one GPU")
    for sizes, rows in NETWORKS:
        total = rows * 8
        for kind, machine in H100.items():
            gain = {n: machine.on(1, sizes, total) / machine.on(n, sizes, total / n) for n in GPUS if n <= total}
            told = ", ".join(f"{n}: {gain[n]:.1f}" for n in shown[1:])
            best = max(gain, key=lambda n: gain[n])
            half = max(n for n in gain if gain[n] >= 0.5 * n)
            print(
                f"  {name(sizes)}, {total} rows, {kind}: {told}; efficiency above one half up to {half:,}, "
                f"fastest on {best:,} ({gain[best]:.1f} times)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paper", action="store_true", help="only what the model says, without a measurement")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        ranks = Ranks() if arguments.measure > 1 else None
        found = measure(ranks)
        if ranks is None or ranks.root:
            print(json.dumps(found))
        return
    if not arguments.paper:
        turns: dict[tuple[int, int], list[dict[str, Any]]] = {setting: [] for setting in SETTINGS}
        for _ in range(arguments.rounds):
            for setting, own in turns.items():
                own.append(measured(*setting))
        fitted(
            {
                setting: {
                    key: [statistics.median(times) for times in zip(*(turn[key] for turn in own), strict=True)]
                    for key in ("steps", "sums")
                }
                for setting, own in turns.items()
            }
        )
    on_paper()


if __name__ == "__main__":
    main()
