"""Weights of eight bits beside those of 32, and the floor: ``python -m tests.benchmarks.eight_bits``.

One layer, few rows, called in turn, medians of rounds. The floor is reading the eight-bit weights once, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from dense_xp import Dense, Sequential, quantize
from dense_xp.kernels import numba_team
from tests.benchmarks.peers import PAUSE

LAYERS = ((4096, 4096), (11008, 4096))


@njit(nogil=True)  # type: ignore[untyped-decorator]
def read(words: Any) -> int:
    """Touch all memory and do nothing else: a sum of whole numbers runs as fast as they arrive."""
    total = 0
    for i in range(words.size):
        total += words[i]
    return total


def contenders(model: Any, X: Any) -> dict[str, Callable[[], Any]]:
    small = quantize(model)
    W = model.layers[0].W
    words = small.layers[0].params["W"].reshape(-1).view("int64")
    np.testing.assert_allclose(small.predict(X), small.forward_pass(X, training=False), rtol=1e-3, atol=1e-5)

    answer, answer_small = model.predictor(), small.predictor()

    def alone() -> Any:
        allowed, numba_team.allowed_threads = numba_team.allowed_threads, lambda: 1
        try:
            return answer_small(X)
        finally:
            numba_team.allowed_threads = allowed

    return {
        "float32, X @ W": lambda: X @ W,
        "float32, predictor": lambda: answer(X),
        "eight bits, predictor": lambda: answer_small(X),
        "eight bits, predictor, one thread": alone,
        "eight bits, converted (forward_pass)": lambda: small.forward_pass(X, training=False),
        "floor: eight bits read": lambda: read(words),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4, 32])
    arguments = parser.parse_args()
    for n_in, n_units in LAYERS:
        model = Sequential([Dense(n_units)], input_shape=(n_in,), backend="numpy", rng=0)
        model.initialize()
        for rows in arguments.rows:
            calls = contenders(model, np.random.default_rng(0).standard_normal((rows, n_in), dtype="float32"))
            taken: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(arguments.rounds):
                for name, call in calls.items():
                    time.sleep(PAUSE)
                    call()
                    start = time.perf_counter()
                    for _ in range(3):
                        call()
                    taken[name].append((time.perf_counter() - start) / 3)
            print(f"\n({rows}, {n_in}) → {n_units}")
            for name, own in taken.items():
                print(
                    f"  {name:38} {statistics.median(own) * 1e6:10,.0f} µs  least {min(own) * 1e6:10,.0f}", flush=True
                )


if __name__ == "__main__":
    main()
