"""A training that is killed goes on to the same bits, and one that is interrupted leaves whole steps, at any moment.

The tests try a few of each. By hand, how many over all libraries, and perhaps a seed, with a report at the end:

    python -m tests.training.test_kills_and_interrupts kills 200 7
    python -m tests.training.test_kills_and_interrupts interrupts 500 7

So many kills in all, and so many interrupts of each library. ``numba`` is NumPy with its kernels, ``numpy`` without.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from dense_xp import (
    Adam,
    BatchNorm,
    Checkpoint,
    CSVLog,
    Dense,
    Dropout,
    EarlyStopping,
    ReduceLROnPlateau,
    Sequential,
    describe,
    load,
    save,
    to_numpy,
)
from dense_xp.support.trees import flatten
from dense_xp.training.fitting import fit
from dense_xp.training.moments import Moment

ROOT = Path(__file__).parents[2]
LIBRARIES = ("numpy", "numba", "torch", "jax")
EPOCHS, BATCH = 60, 8  # early stopping ends it long before
RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] * X[:, 2] + RNG.normal(size=120) > 0).astype(int)
LEARNED, HELD_OUT = (X[:80], Y[:80]), (X[80:], Y[80:])


def network(name: str) -> Sequential:
    layers = [Dense(16, activation="relu"), BatchNorm(), Dropout(0.2), Dense(2)]
    model = Sequential(layers, input_shape=(6,), backend=backend_of(name), rng=3)
    model.initialize(Adam(0.02))
    return model


def backend_of(name: str) -> str:
    return "numpy" if name == "numba" else name


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.training.test_kills_and_interrupts", *map(str, arguments)]


def apart(*arguments: object) -> str:
    """Run the script in a process of one thread, which may fork, with or without numba; return its last line."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    kernels = {"NUMBA_DISABLE_JIT": "0" if arguments[1] == "numba" else "1"}
    done = subprocess.run(
        command(*arguments), cwd=ROOT, env={**os.environ, **one, **kernels}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


# ------------------------------------------------------------------------------------- kills


def trained(name: str, folder: Path, told: Callable[[], object] = lambda: None) -> None:
    """Train to the end, from where the files in a folder left off; tell when it begins, and after each epoch."""
    path = folder / "model"
    there = path.exists()
    model = load(path, backend_of(name)) if there else network(name)
    history = describe(path)["history"] if there else None
    watch = [
        lambda run: told(),
        EarlyStopping(patience=4),
        ReduceLROnPlateau(patience=1, factor=0.5),
        CSVLog(folder / "log.csv", append=there),
        Checkpoint(path),
    ]
    left = EPOCHS - (history.epochs if history else 0)
    told()
    history = model.fit(
        *LEARNED, left, BATCH, validation_data=HELD_OUT, metrics=["accuracy"], callbacks=watch, history=history
    )
    save(model, folder / "final", training=True, history=history)


def result(folder: Path) -> dict[str, Any]:
    """Return all that a training comes to, but for how long it took."""
    path = folder / "final"
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    about = describe(path)
    history = about.pop("history")
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        log = [[row[0], *row[2:]] for row in csv.reader(file)]
    measured = {"metrics": history.metrics, "best": history.best_epoch, "stopped": history.stopped}
    return {**about, **arrays, **measured, "log": log, "files": sorted(os.listdir(folder))}


def started(name: str, folder: Path) -> tuple[int, int]:
    """Start a training; return its process, and where it writes a byte when it begins and after each epoch."""
    told, tell = os.pipe()
    if name == "jax":  # which does not survive a fork
        pid = subprocess.Popen(command("train", name, folder, tell), cwd=ROOT, pass_fds=[tell]).pid
    elif not (pid := os.fork()):
        try:
            trained(name, folder, lambda: os.write(tell, b"."))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(tell)
    return pid, told


def kills_of(name: str, enough: Callable[[int], bool], seed: int) -> str:
    """Kill trainings of a library until there are enough, at random moments; hold their ends against one in peace."""
    rng, killed, trainings = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as root:
        peace = Path(root) / "peace"
        peace.mkdir()
        trained(name, peace)
        begun = time.perf_counter()
        shutil.rmtree(peace)
        peace.mkdir()
        trained(name, peace)
        expected = result(peace)
        epochs = len(expected["log"]) - 1
        one = (time.perf_counter() - begun) / epochs
        assert expected["files"] == ["final", "log.csv", "model"]
        assert 2 < expected["best"] < epochs < EPOCHS
        while not enough(killed):
            trainings += 1
            folder = Path(root) / str(trainings)
            folder.mkdir()
            while True:
                pid, told = started(name, folder)
                for _ in range(2 * EPOCHS if enough(killed) else rng.randrange(epochs + 3)):
                    if not os.read(told, 1):
                        break
                else:
                    time.sleep(rng.uniform(0, 1.5 * one))
                    os.kill(pid, signal.SIGKILL)
                os.close(told)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if status == 0:
                    break
                assert status == -signal.SIGKILL, status
                killed += 1
            found = result(folder)
            assert found == expected, [key for key in expected if found.get(key) != expected[key]]
    return f"{name}: {killed} kills of {trainings} trainings, all as if there had been none"


@pytest.mark.parametrize(
    ("name", "count"),
    [("numpy", 5), ("numba", 5), ("torch", 5), pytest.param("jax", 2, marks=pytest.mark.slow)],  # it starts processes
)
def test_killed_trainings_go_on_to_the_same_bits(name: str, count: int) -> None:
    pytest.importorskip(name)
    assert apart("kills-of", name, count, 0).startswith(f"{name}: {count} kills")


# ------------------------------------------------------------------------------------- interrupts


def digest(model: Sequential) -> tuple[int, str]:
    """Return the steps of a model, and a digest of its weights and of the optimizer's state."""
    found = hashlib.sha256()
    for tree in (model.params, model.optimizer_state):
        for name, value in sorted(flatten(tree).items()):
            found.update(name.encode() + to_numpy(value).tobytes())
    return model.steps, found.hexdigest()


class Alarm:
    """Interrupts a training at a random moment, and perhaps again soon after that; in the main thread."""

    def __init__(self, rng: random.Random, most: int = 2) -> None:
        self.rng, self.most, self.rings, self.after = rng, most, 0, 0.0

    def _ring(self, number: int, frame: FrameType | None) -> None:
        here = self.rings > 0 and within_fit(frame)
        self.rings -= here
        if self.rings:
            signal.setitimer(signal.ITIMER_REAL, self.after)
        if here:
            signal.raise_signal(signal.SIGINT)

    def interrupts(self, function: Callable[[Callable[[], None]], object], seconds: float) -> bool:
        """Call a function, which says when it begins what takes so long; return whether it was interrupted."""

        def begins() -> None:
            signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(1e-5, 1.1 * seconds))

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in processes of the background
        signal.signal(signal.SIGALRM, self._ring)
        self.rings = self.rng.randint(1, self.most)
        self.after = 10 ** self.rng.uniform(-5, math.log10(seconds / 5))
        try:
            function(begins)
        except KeyboardInterrupt:
            return True
        finally:
            self.rings = 0
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


def within_fit(frame: FrameType | None) -> bool:
    """Whether it is called in a training, which nobody has left yet."""
    while frame is not None and frame.f_code is not fit.__code__:
        frame = frame.f_back
    return frame is not None


class Interrupted:
    """A training of a library that is interrupted again and again, and all that it may leave."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.model, self.alarm, self.epochs = network(name), Alarm(rng), 3
        self.beginning = Moment.of(self.model)
        self.whole, noise = [digest(self.model)], np.random.default_rng(1)
        for at in [*range(0, len(LEARNED[0]), BATCH)] * self.epochs:
            rows = slice(at, at + BATCH)
            self.model.fit(LEARNED[0][rows], LEARNED[1][rows], 1, BATCH, shuffle=False, rng=noise)
            self.whole.append(digest(self.model))
        self._begin_again()
        self.train()  # what is compiled is compiled now
        assert digest(self.model) == self.whole[-1]
        begun = time.perf_counter()
        self._begin_again()
        self.train()
        self.seconds = time.perf_counter() - begun

    def _begin_again(self) -> None:
        self.beginning.restore(self.model, Exception())

    def train(self, begins: Callable[[], None] = lambda: None) -> None:
        begins()
        watch = [lambda run: run.model.predict(HELD_OUT[0])]
        self.model.fit(*LEARNED, self.epochs, BATCH, shuffle=False, rng=1, callbacks=watch)

    def once(self) -> int | None:
        """Train and interrupt; return the steps that were taken, or None if it came too late."""
        self._begin_again()
        landed = self.alarm.interrupts(self.train, self.seconds)
        left = digest(self.model)
        assert left in self.whole, f"a part of a step, after {left[0]}"
        self.model.fit(*LEARNED, 1, BATCH)
        assert np.isfinite(self.model.predict(HELD_OUT[0])).all()
        return left[0] if landed else None


def interrupts_of(name: str, count: int, seed: int) -> str:
    """Interrupt trainings of a library so often, at random moments; look at what they leave."""
    trainings, landed, seen = Interrupted(name, random.Random(seed)), 0, set()
    while landed < count:
        steps = trainings.once()
        landed += steps is not None
        seen.add(steps)
    seen.discard(None)
    total = len(trainings.whole)
    return f"{name}: {landed} interrupts, which left {len(seen)} of {total} moments, each after a whole step"


@pytest.mark.parametrize("name", LIBRARIES)
def test_an_interrupt_leaves_whole_steps(name: str) -> None:
    pytest.importorskip(name)
    assert apart("interrupts-of", name, 25, 0).startswith(f"{name}: 25 interrupts")


def main(what: str, *rest: str) -> None:
    """Do what the command line says."""
    if what == "train":
        name, folder, tell = rest
        trained(name, Path(folder), lambda: os.write(int(tell), b"."))
    elif what == "interrupts-of":
        print(interrupts_of(rest[0], int(rest[1]), int(rest[2])))
    elif what == "kills-of":
        print(kills_of(rest[0], int(rest[1]).__le__, int(rest[2])))
    elif what == "kills-for":
        until = time.monotonic() + float(rest[1])
        print(kills_of(rest[0], lambda _: time.monotonic() > until, int(rest[2])))
    else:
        count, seed = int(rest[0]), int(rest[1]) if len(rest) > 1 else 0
        for name in LIBRARIES:
            begun = time.perf_counter()
            line = apart(f"{what}-of", name, count // len(LIBRARIES) if what == "kills" else count, seed)
            print(f"{line} ({time.perf_counter() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
