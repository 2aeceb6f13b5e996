"""A training that comes to grief in one way or another, or goes on after that.

mpiexec -n 2 python -m tests.training.distributed.faults WAY FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from dense_xp import SGD, Adam, Checkpoint, Dense, DivergenceError, Dropout, Ranks, Sequential, describe, load, save
from dense_xp.datasets import load_digits

EPOCHS, BATCH = 4, 60
STEPS = 6  # in an epoch
WHEN = 15  # the step, counted from 1, in which it happens: in the third epoch


def main(way: str, folder: str) -> None:
    ranks = Ranks()
    X, y = load_digits()
    X, y = X[:360], y[:360]
    last = ranks.rank == ranks.size - 1
    path = f"{folder}/checkpoint.safetensors"
    calls = 0

    def trouble(prediction: Any, target: Any) -> Any:
        """A metric, which is called once in each step."""
        nonlocal calls
        calls += 1
        if way == "wait" and calls > STEPS:
            time.sleep(0.3)
        if way == "slow":
            time.sleep(0.03)
        if calls == WHEN and last:
            happen(way)
        return np.mean(prediction)

    def happen(way: str) -> None:
        if way == "raise":
            raise ZeroDivisionError("the numbers are against us")
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way in ("terminate", "interrupt"):
            os.kill(os.getpid(), signal.SIGTERM if way == "terminate" else signal.SIGINT)

    def callback(run: Any) -> None:
        assert ranks.root
        if way == "callback" and run.epoch == 2:
            raise OSError("the disk is full")
        if way == "terminate after the last step" and run.epoch == EPOCHS:
            os.kill(os.getpid(), signal.SIGTERM)

    class Early:
        on_every_rank = True

        def begin(self, run: Any) -> None:
            if way == "interrupt before the first step" and last:
                happen("interrupt")

        def epoch_end(self, run: Any) -> None: ...

        def end(self, run: Any) -> None: ...

    if way == "before" and last:
        raise LookupError("the file is somewhere else")
    if way == "data" and last:
        X, y = X[:300], y[:300]
    if way == "label" and last:
        y = np.where(np.arange(len(y)) == 7, 99, y)

    if way == "resume":
        model, past = load(path), describe(path)["history"]
        model.fit(X, y, EPOCHS - past.epochs, BATCH, history=past, metrics=[trouble], distributed=ranks)
    else:
        model = Sequential([Dense(16, activation="tanh"), Dropout(0.2), Dense(10)], rng=5)
        optimizer = SGD(1e38) if way == "diverge" else Adam(0.01)
        try:
            model.fit(
                X, y, EPOCHS, BATCH, optimizer=optimizer, metrics=[trouble],
                callbacks=[Checkpoint(path), callback, Early()], distributed=ranks,
            )  # fmt: skip
        except (DivergenceError, KeyboardInterrupt) as error:
            # every rank is here, so that they can go on together
            told = ranks.gathered((type(error).__name__, model.steps))
            if ranks.root:
                print("all caught", told)
            return
    if ranks.root:
        save(model, f"{folder}/{way}.safetensors")


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(exist_ok=True)
    main(*sys.argv[1:])
