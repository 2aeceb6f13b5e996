"""What `forward_pass` costs above the bare product: ``python -m tests.benchmarks.forward_pass [backend]``.

Both are called in turn, in rounds, so that whatever else the machine does hits both alike. Each number is the
median over rounds of the mean time in a round; the ratio is the median of the ratios within a round. Device
work is waited for at the end of each round.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dense_xp import Dense, get_backend

SHAPES = ((1, 64, 64), (32, 64, 64), (128, 784, 512), (1024, 2048, 2048))  # batch, inputs, outputs
ROUNDS = 41
SECONDS_PER_ROUND = 0.02


def mean_time(function: Callable[[], Any], times: int, wait: Callable[[Any], Any]) -> float:
    start = time.perf_counter()
    for _ in range(times):
        result = function()
    wait(result)
    return (time.perf_counter() - start) / times


def compare(one: Callable[[], Any], two: Callable[[], Any], wait: Callable[[Any], Any]) -> tuple[float, float, float]:
    """Return the median times of two functions, and the median of their ratios."""
    once = min(mean_time(two, 3, wait) for _ in range(5))
    times = max(1, int(SECONDS_PER_ROUND / once))
    rounds = [(mean_time(one, times, wait), mean_time(two, times, wait)) for _ in range(ROUNDS)]
    first, second = zip(*rounds, strict=True)
    return statistics.median(first), statistics.median(second), statistics.median(a / b for a, b in rounds)


def main(spec: str = "numpy") -> None:
    backend = get_backend(spec)
    print(f"{backend}, float32, NumPy {np.__version__}, Python {sys.version.split()[0]}")
    print(f"{'batch':>6} {'inputs':>6} {'units':>6} {'forward_pass':>14} {'X @ W + w0':>14} {'ratio':>6}")
    for batch, n_in, n_units in SHAPES:
        layer = Dense(n_units, (n_in,), backend=backend, rng=0)
        layer.initialize("sgd")
        X = backend.asarray(np.random.default_rng(0).normal(size=(batch, n_in)), "float32")
        W, w0 = layer.W, layer.w0
        wait = backend.to_numpy if backend.name != "numpy" else lambda result: None
        a, b, ratio = compare(lambda X=X, layer=layer: layer.forward_pass(X), lambda X=X, W=W, w0=w0: X @ W + w0, wait)
        print(f"{batch:6} {n_in:6} {n_units:6} {a * 1e6:11.2f} µs {b * 1e6:11.2f} µs {ratio:6.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
