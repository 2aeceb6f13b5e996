"""Whole trainings beside scikit-learn's ``MLPClassifier``: ``python -m tests.benchmarks.fit``.

Both start from their own initial weights with the same optimizer, rate, batch size and number of epochs,
and are called in turn; the number is the median ratio of their times. The accuracy is on data held out.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from dense_xp import Adam, Dense, Sequential
from dense_xp.datasets import load_digits


def digits() -> tuple[Any, Any, Any, Any]:
    X, y = load_digits()
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order].astype("float32"), y[order]
    return X[:1437], y[:1437], X[1437:], y[1437:]


def large() -> tuple[Any, Any, Any, Any]:
    """60,000 samples of 784 features whose classes a network can learn."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((70_000, 784), dtype="float32")
    y = (X @ rng.standard_normal((784, 10), dtype="float32")).argmax(axis=1)
    return X[:60_000], y[:60_000], X[60_000:], y[60_000:]


WORK: dict[str, tuple[Any, tuple[int, ...], int, int]] = {
    "digits, 30 epochs, hidden (100,), batch 200": (digits, (100,), 200, 30),
    "60,000 × 784, 1 epoch, hidden (512, 512), batch 128": (large, (512, 512), 128, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="numpy")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn warns that it has not converged
    for name, (data, hidden, batch, epochs) in WORK.items():
        X, y, X_test, y_test = data()

        def ours(seed: int) -> float:
            layers = [*(Dense(n, activation="relu") for n in hidden), Dense(10)]  # noqa: B023
            model = Sequential(layers, backend=arguments.backend, rng=seed)
            model.fit(X, y, epochs, batch, optimizer=Adam(1e-3), verbose=False)  # noqa: B023
            return float(np.mean(model.predict(X_test).argmax(axis=1) == y_test))  # noqa: B023

        def theirs(seed: int) -> float:
            model = MLPClassifier(hidden, batch_size=batch, max_iter=epochs, random_state=seed)  # noqa: B023
            return float(model.fit(X, y).score(X_test, y_test))  # noqa: B023

        seconds: dict[Any, list[float]] = {ours: [], theirs: []}
        accuracy: dict[Any, list[float]] = {ours: [], theirs: []}
        ours(0)  # compiled
        for seed in range(arguments.rounds):
            for contender in (ours, theirs):
                start = time.perf_counter()
                accuracy[contender].append(contender(seed))
                seconds[contender].append(time.perf_counter() - start)
        ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
        print(f"{name}: {ratio:.2f} times as fast as MLPClassifier")
        for label, contender in ((f"dense_xp on {arguments.backend}", ours), ("MLPClassifier", theirs)):
            median, score = statistics.median(seconds[contender]), statistics.mean(accuracy[contender])
            print(f"  {label:20} {median:8.3f} s, accuracy {score:.4f}")


if __name__ == "__main__":
    main()
