"""Everything at once for some time, with kills, full disks and Ctrl-C: nothing grows, no bit is wrong, nothing is left.

    python -m tests.training.soak 600 7

runs for so many seconds, with a seed, and prints a line for each of

- threads: eight in one process fit, predict, save and load, several models and one that they share; the main thread
  is interrupted
- disk: saves and trainings where the disk is full, or files may not grow
- kills: trainings that are killed and go on (:mod:`tests.training.test_kills_and_interrupts`)
- ranks: two ranks under ``mpiexec`` that train, predict, save and load, and are interrupted; in the second half one of
  them is killed again and again (:mod:`tests.training.distributed.kills`)
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import importlib.util
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dense_xp import Adam, Checkpoint, CSVLog, Dense, Dropout, Ranks, Sequential, load, save, to_numpy
from dense_xp.datasets import load_digits
from tests.training import test_kills_and_interrupts as trainings
from tests.training.distributed import kills, launching
from tests.training.test_kills_and_interrupts import BATCH, LEARNED, ROOT, Interrupted, X, backend_of, digest, network

LATE = 300  # seconds after its time in which a worker ends; the last training and the start of programs are in it
MARK = "DENSE_XP_SOAK"  # an environment variable that all processes inherit
MEBIBYTE = 2**20
SMALL_DISK = 2**18


# ------------------------------------------------------------------------------------- what must not grow


class Usage(NamedTuple):
    """What a process holds."""

    mebibytes: float
    threads: int
    descriptors: int


ALLOWED = Usage(8.0, 0, 0)
FEWEST = 9  # rounds, however short the time is


def usage() -> Usage:
    """Return what this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    counts = (len(os.listdir(f"/proc/self/{what}")) for what in ("task", "fd"))
    return Usage(pages * resource.getpagesize() / MEBIBYTE, *counts)


def settled(used: list[Usage]) -> str:
    """Return what a process held at last, if that is not more than after the first third of its time."""
    third = len(used) // 3
    for what, allowed, *values in zip(Usage._fields, ALLOWED, *used, strict=True):
        early, late = max(values[third : 2 * third]), max(values[2 * third :])
        assert late - early <= allowed, f"{what} grew from {early:.1f} to {late:.1f} in {len(used)} rounds"
    last = used[-1]
    return f"{len(used)} rounds, {last.mebibytes:.0f} MiB, {last.threads} threads, {last.descriptors} descriptors"


def only(folder: Path, *names: str) -> None:
    """Raise if there are other files in a folder."""
    others = sorted(set(os.listdir(folder)) - set(names))
    assert not others, f"left over: {others}"


def counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


# ------------------------------------------------------------------------------------- eight threads


class Shared:
    """Models that threads use at the same time, and the bits that they must come to."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.model = self._trained()
        self.predictor = self.model.predictor()
        self.end = digest(self._trained())
        rows = (1, 7, 32, len(X))
        self.predicted = {n: to_numpy(self.model.predict(X[:n])).tobytes() for n in rows}
        self.answered = {n: to_numpy(self.predictor(X[:n])).tobytes() for n in rows}

    def _trained(self) -> Sequential:
        model = network(self.name)
        model.fit(*LEARNED, 2, BATCH)
        return model

    def fits(self, rng: random.Random) -> None:
        assert digest(self._trained()) == self.end, "a training came to other bits"

    def predictions(self, rng: random.Random) -> None:
        n = rng.choice([*self.predicted])
        assert to_numpy(self.model.predict(X[:n])).tobytes() == self.predicted[n], "predict has other bits"

    def answers(self, rng: random.Random) -> None:
        n = rng.choice([*self.answered])
        assert to_numpy(self.predictor(X[:n])).tobytes() == self.answered[n], "the predictor has other bits"

    def saves(self, rng: random.Random) -> None:
        path = self.folder / rng.choice("abc")  # other threads write there too
        save(self.model, path, training=True)
        again = load(path, backend_of(self.name))
        assert digest(again) == digest(self.model), "a file holds other bits"
        assert to_numpy(again.predict(X)).tobytes() == self.predicted[len(X)], "a model from a file has other bits"


def threads(seconds: float, seed: int, folder: Path, names: str = "numpy") -> str:
    """Work in eight threads of this process, in rounds, on models of one library after the other."""
    rng, counts, used = random.Random(seed), Counter[str](), list[Usage]()
    models = [(Shared(name, folder), Interrupted(name, rng)) for name in names.split(",")]
    until, length = time.monotonic() + seconds, min(5.0, seconds / 20)

    def repeat(work: Callable[[random.Random], object], seed: float, end: float) -> Counter[str]:
        own, done = random.Random(seed), Counter[str]()
        while not done or time.monotonic() < end:
            work(own)
            done[work.__name__] += 1
        return done

    def interrupts(own: random.Random) -> None:
        counts["of them too late"] += interrupted.once() is None

    while time.monotonic() < until or len(used) < FEWEST:
        shared, interrupted = models[len(used) % len(models)]
        works = [shared.fits, shared.fits, shared.predictions, shared.predictions, shared.answers, shared.answers]
        end = time.monotonic() + length
        with ThreadPoolExecutor(7) as pool:
            others = [pool.submit(repeat, work, rng.random(), end) for work in [*works, shared.saves]]
            counts += repeat(interrupts, rng.random(), end)
        for other in others:
            counts += other.result()
        only(folder, *"abc")
        used.append(usage())
    return f"{counted(counts)}; {settled(used)}"


# ------------------------------------------------------------------------------------- no room


@contextlib.contextmanager
def no_room(folder: Path, rng: random.Random) -> Iterator[str]:
    """Fill a small disk to some point, or forbid files beyond some size; yield which of them."""
    small = shutil.disk_usage(folder).total <= SMALL_DISK
    if small and rng.random() < 0.5:
        filler = folder / "filler"
        with contextlib.suppress(OSError):  # full to the last byte
            filler.write_bytes(bytes(rng.randrange(SMALL_DISK)))
        try:
            yield "on a full disk"
        finally:
            filler.unlink()
    else:
        _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(SMALL_DISK // 4), hard))
        try:
            yield "at the largest size of a file"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def disk(seconds: float, seed: int, folder: Path) -> str:
    """Save and train where there is no room; what was there stays, and the model can be used."""
    rng, counts, used = random.Random(seed), Counter[str](), list[Usage]()
    path, log, until = folder / "model", folder / "log.csv", time.monotonic() + seconds

    def model() -> Sequential:
        made = Sequential([Dense(256, activation="relu"), Dense(2)], input_shape=(6,), rng=rng.randrange(2**32))
        made.initialize(Adam(0.01))  # with its state, a file of 30 kB
        return made

    save(model(), path, training=True)
    while time.monotonic() < until or len(used) < FEWEST:
        new, before = model(), path.read_bytes()
        log.unlink(missing_ok=True)
        trains = rng.random() < 0.5
        try:
            with no_room(folder, rng) as where:
                if trains:
                    new.fit(*LEARNED, 3, BATCH, callbacks=[CSVLog(log), Checkpoint(path)])
                else:
                    save(new, path, training=True)
            counts["with room enough"] += 1
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG):
                raise
            counts[f"refused {where}"] += 1
            if not trains:
                assert path.read_bytes() == before, "a refused save changed the file"
        load(path)  # whole, whatever it is
        only(folder, "model", "log.csv")
        assert np.isfinite(new.predict(X)).all()
        save(new, path, training=True)
        assert digest(load(path)) == digest(new), "a file holds other bits"
        for where in ("/dev/full", "/dev/full/model"):
            with contextlib.suppress(OSError):
                save(new, where)
                raise AssertionError(f"a model was saved to {where}")
        with contextlib.suppress(OSError):
            new.fit(*LEARNED, 1, BATCH, callbacks=[CSVLog("/dev/full")])
            raise AssertionError("a log was written to /dev/full")
        counts["refused by /dev/full"] += 3
        used.append(usage())
    return f"{counted(counts)}; {settled(used)}"


def on_a_small_disk(folder: Path) -> list[str]:
    """Return a command that runs another one with a small disk as folder, which ends with it; or nothing."""
    mounts = f'mount -t tmpfs -o size={SMALL_DISK} none "$0" && exec "$@"'
    found = ["unshare", "-rm", "sh", "-c", mounts, str(folder)]
    with contextlib.suppress(OSError):
        if subprocess.run([*found, "true"], capture_output=True).returncode == 0:
            return found
    return []


# ------------------------------------------------------------------------------------- two ranks


def rank(seconds: float, seed: int, folder: Path) -> None:
    """Train, predict, save and load on all ranks, with a Ctrl-C for one of them; rank 0 prints the line."""
    ranks, rng = Ranks(), random.Random(seed)
    images, labels = load_digits()
    path, until, used, counts = folder / "model", time.monotonic() + seconds, list[Usage](), Counter[str]()
    alarm, first = trainings.Alarm(rng, 1), set[bytes]()  # a second one in a row ends all ranks

    def fit(model: Sequential, begins: Callable[[], None]) -> None:
        def measure(prediction: np.ndarray[Any, Any], target: object) -> Any:
            """A metric: it is called in each step, and so first when training has begun."""
            if not model.steps:
                begins()
            return np.mean(prediction)

        model.fit(images[:360], labels[:360], 2, 60, optimizer=Adam(0.01), metrics=[measure], distributed=ranks)

    took = 0.01
    while ranks.from_root(lambda: time.monotonic() < until or len(used) < FEWEST):
        model = Sequential([Dense(16, activation="tanh"), Dropout(0.2), Dense(10)], rng=5)
        victim, began = ranks.from_root(lambda: rng.randrange(2 * ranks.size)), time.perf_counter()
        if victim == ranks.rank:
            interrupted = alarm.interrupts(functools.partial(fit, model), took)
        else:
            try:
                fit(model, lambda: None)
                interrupted = False
            except KeyboardInterrupt:
                interrupted = True
        if victim >= ranks.size:
            took = time.perf_counter() - began
        told = ranks.gathered(interrupted)
        steps, end = digest(model)
        assert len(set(ranks.gathered(end))) == 1, "the ranks have other bits"
        counts["trainings that were interrupted" if any(told) else "trainings"] += 1
        if ranks.root:
            save(model, path, training=True)
        ranks.comm.Barrier()
        again = load(path)
        bits = [to_numpy(m(images)).tobytes() for m in (model.predict, again.predict)]
        bits += [to_numpy(m.predictor()(images)).tobytes() for m in (model, again)]
        assert len(set(ranks.gathered((bits[0], bits[2])))) == 1, "the ranks predict other bits"
        assert bits[0] == bits[1], "a model from a file has other bits"
        assert bits[2] == bits[3], "the predictor of a model from a file has other bits"
        if steps == 12:
            first.add(bits[0])
            assert len(first) == 1, "a training came to other bits"
        only(folder, "model")
        ranks.comm.Barrier()  # nobody saves while another one looks
        used.append(usage())
    told = ranks.gathered(settled(used))
    if ranks.root:
        print(f"{counted(counts)}; {told[0]}", flush=True)


def on_ranks(seconds: float, seed: int, folder: Path) -> str:
    """Let two ranks work for half of the time, then train and kill one of them, and go on to the same bits."""
    begun, rng, killed = time.monotonic(), random.Random(seed), 0
    place = folder / "work"
    place.mkdir()
    half = seconds / 2
    work = "-m", "tests.training.soak", "rank", str(half), str(seed), str(place)
    done = launching.run(2, *work, within=half + launching.DEADLINE)
    assert done.status == 0, done.said
    line = done.said.splitlines()[-1]

    def train(way: str, place: Path) -> tuple[int, str]:
        done = launching.run(2, "-m", kills.MODULE, way, str(place))
        assert done.status == 0, done.said
        return digest(load(place / f"{way}.safetensors"))

    wanted = train("nothing", folder / "peace")
    while not killed or time.monotonic() < begun + seconds:
        place = folder / f"killed {killed}"
        place.mkdir()
        assert kills.killed(place, rng), "a job whose rank was killed ended without an error"
        found = train("resume", place)
        assert found == wanted, f"killed and resumed, it came to other bits: {found} and not {wanted}"
        only(place, "checkpoint.safetensors", "resume.safetensors")
        killed += 1
    return f"{line}; {killed} ranks killed, all ended and went on to the same bits"


# ------------------------------------------------------------------------------------- all of it


def installed(*names: str) -> str:
    return ",".join(name for name in names if importlib.util.find_spec(name))


def kinds() -> list[str]:
    has_mpi = Path(sys.executable).with_name("mpiexec").exists() and installed("mpi4py")
    return ["threads", "disk", "kills", *["ranks"] * bool(has_mpi)]


def command(kind: str, seconds: float, seed: int, folder: Path) -> list[str]:
    """Return the command of one kind, whose last line is what there is to say."""
    own = [sys.executable, "-m", "tests.training.soak", kind, str(seconds), str(seed), str(folder)]
    if kind == "threads":  # JAX compiles anew for each model, and its memory was seen to grow by that
        return [*own, installed("numpy", "torch")]
    return [*on_a_small_disk(folder), *own] if kind == "disk" else own


def marked(mark: str) -> list[int]:
    """Return the processes whose environment has the mark."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # gone, or another user's
            if f"{MARK}={mark}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                found.append(int(process))
    return found


def main(seconds: float = 600.0, seed: int = 0, only_kinds: list[str] | None = None) -> bool:
    """Run all kinds at the same time, and print a line for each; return whether all went well."""
    mark, well = uuid.uuid4().hex, True
    with tempfile.TemporaryDirectory() as root:
        running = {}
        for kind in only_kinds or kinds():
            folder = Path(root) / kind
            folder.mkdir()
            running[kind] = subprocess.Popen(
                command(kind, seconds, seed, folder), cwd=ROOT, env={**os.environ, MARK: mark}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        late = time.monotonic() + seconds + LATE
        for kind, process in running.items():
            try:
                said, _ = process.communicate(timeout=max(1.0, late - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
                said += f"it was still running {LATE} s after its time"
            good = process.returncode == 0
            well &= good
            told = said.splitlines()[-1] if good else f"FAILED ({process.returncode})\n{said}"
            print(f"{kind}: {told}", flush=True)
        left = marked(mark)
        print(f"left over: {len(left)} processes")
    return well and not left


WORKERS = {"threads": threads, "disk": disk, "ranks": on_ranks}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("rank", "kills", *WORKERS):
        kind, seconds, seed, folder, *rest = sys.argv[1:]
        if kind == "rank":
            rank(float(seconds), int(seed), Path(folder))
        elif kind == "kills":
            names = installed("numpy", "numba", "torch").split(",")
            print("; ".join(trainings.apart("kills-for", name, float(seconds) / len(names), seed) for name in names))
        else:
            print(WORKERS[kind](float(seconds), int(seed), Path(folder), *rest))
    else:
        sys.exit(not main(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:3])))
