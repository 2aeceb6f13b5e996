"""How fast the backends of this machine are, side by side: one layer, one step, one epoch, one prediction.

All backends do the same work on the same data, called in turn, in rounds, so that other load on the machine affects all
alike. A time is the median over rounds; a ratio is the median of the ratios within a round. For latencies, each call is
timed by itself, and the 99th percentile is reported too. A backend whose answer differs from the first is left out.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_xp.backend import Array, Backend
from dense_xp.layers.dense import Dense
from dense_xp.learning.optimizers import Adam
from dense_xp.support.pictures import new_figure, tidy
from dense_xp.training.fitting import repeated_step
from dense_xp.training.sequential import Sequential

WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
"""Widths of the two layers whose step is timed to find where one backend overtakes another."""

GROWTH: dict[str, Callable[[Sequence[int], int], int]] = {
    "width": lambda sizes, batch: sizes[0],
    "depth": lambda sizes, batch: len(sizes) - 1,
    "rows": lambda sizes, batch: batch,
    "classes": lambda sizes, batch: sizes[-1],
}
"""The groups of steps in which one size grows, and how to read it from the sizes of the network and the batch."""

MOST_WEIGHTS, MOST_PRODUCTS = 1 << 25, 1 << 33
"""The most weights, and multiplications in a forward pass, of random sizes: they take seconds, not minutes."""

TOLERANCE = 5e-3
"""How far answers may be apart, as a share of the largest: a few steps of Adam magnify rounding errors."""

_ROUND_SECONDS = 0.05  # each round repeats the work for about this long
_PAUSE = 0.02  # before each: a library's threads spin for a while after its work, and would slow the next one

Call = Callable[[], Any]  # does the work once; returns an array that is ready when the work is done


@dataclass(frozen=True)
class Work:
    """Something to time.

    Attributes
    ----------
    group : str
        ``"layer"``, ``"step"``, ``"epoch"``, ``"predict"``, ``"latency"``, or a name of :data:`GROWTH`.
    name : str
        What it is.
    samples : int
        How many samples one call goes through.
    make : callable
        Prepares it on a backend.
    """

    group: str
    name: str
    samples: int
    make: Callable[[Backend], Call]


@dataclass(frozen=True)
class Timing:
    """What one backend took for one work.

    Attributes
    ----------
    group, work, backend : str
        What was done, and where.
    seconds : float or None
        Median time of a call; None if it failed.
    samples_per_second : float or None
        Throughput at that time.
    ratio : float or None
        Median ratio to the first backend.
    error : str
        Why it failed; empty if it did not.
    p99 : float or None
        99th percentile of the times of calls; None unless each was timed by itself.
    """

    group: str
    work: str
    backend: str
    seconds: float | None
    samples_per_second: float | None
    ratio: float | None
    error: str = ""
    p99: float | None = None


def network(sizes: Sequence[int], backend: Backend) -> Sequential:
    """Return a network of these sizes, ReLU inside, initialized with Adam, alike on every backend."""
    *hidden, last = sizes[1:]
    model = Sequential(
        [*(Dense(n, activation="relu") for n in hidden), Dense(last)],
        input_shape=(sizes[0],),
        backend=backend,
        rng=0,
    )
    model.initialize(Adam())
    return model


def _data(n: int, sizes: Sequence[int]) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, sizes[0]), dtype="float32")
    if sizes[-1] == 1:
        return X, rng.standard_normal((n, 1), dtype="float32")
    return X, rng.integers(0, sizes[-1], size=n)


def _layer(batch: int, n_in: int, n_units: int) -> Work:
    def make(backend: Backend) -> Call:
        layer = Dense(n_units, (n_in,), backend=backend, rng=0)
        layer.initialize()
        X = backend.asarray(_data(batch, (n_in, 2))[0])
        return lambda: layer.forward_pass(X, training=False)

    return Work("layer", f"({batch}, {n_in}) → {n_units}", batch, make)


def _step(sizes: Sequence[int], batch: int, group: str = "step") -> Work:
    def make(backend: Backend) -> Call:
        return repeated_step(network(sizes, backend), *_data(batch, sizes))

    return Work(group, f"{'-'.join(map(str, sizes))}, batch {batch}", batch, make)


def _epoch(n: int, sizes: Sequence[int], batch: int) -> Work:
    def make(backend: Backend) -> Call:
        model, (X, y) = network(sizes, backend), _data(n, sizes)

        def call() -> float:
            return float(model.fit(X, y, 1, batch, rng=0, verbose=False)["loss"][0])  # it ends by reading the losses

        return call

    return Work("epoch", f"{n:,} × {'-'.join(map(str, sizes))}, batch {batch}, data on the host", n, make)


def _predict(batch: int, sizes: Sequence[int], group: str = "predict") -> Work:
    def make(backend: Backend) -> Call:
        answer, X = network(sizes, backend).predictor(batch_size=batch), _data(batch, sizes)[0]
        return lambda: answer(X)  # comes back to the host

    return Work(group, f"{batch:,} × {'-'.join(map(str, sizes))}, from and to the host", batch, make)


def drawn(seed: int, count: int) -> list[tuple[tuple[int, ...], int]]:
    """Return random sizes of networks and batches.

    Widths go up to 4,096, rows to 8,192 and classes to 50,000, distributed log-uniformly; layers go up to 10.

    Parameters
    ----------
    seed : int
        The same one draws the same sizes.
    count : int
        How many.

    Examples
    --------
    >>> drawn(7, 2) == drawn(7, 3)[:2]
    True
    """
    rng = np.random.default_rng(seed)

    def up_to(most: int) -> int:
        return int(most ** rng.random() + 0.5)

    found: list[tuple[tuple[int, ...], int]] = []
    while len(found) < count:
        sizes = (*(up_to(4096) for _ in range(rng.integers(1, 11))), up_to(50_000))
        batch, weights = up_to(8192), sum(map(math.prod, itertools.pairwise(sizes)))
        if weights <= MOST_WEIGHTS and weights * batch <= MOST_PRODUCTS:
            found.append((sizes, batch))
    return found


def drawn_works(seed: int, count: int) -> list[Work]:
    """Return a step, a prediction and the prediction of one row for each of the random sizes."""
    return [
        work
        for sizes, batch in drawn(seed, count)
        for work in (_step(sizes, batch), _predict(batch, sizes), _predict(1, sizes, "latency"))
    ]


def works(quick: bool = False) -> list[Work]:
    """Return everything that is timed; `quick` leaves the large ones out."""
    small, middle, large = (64, 100, 10), (784, 512, 512, 10), (1024, 2048, 2048, 1000)
    if quick:
        return [
            _layer(32, 64, 64),
            _step(small, 200),
            _epoch(600, small, 200),
            _predict(32, small),
            _predict(1, small, "latency"),
            *(_step((n, n, n), 128, "width") for n in WIDTHS[:2]),
        ]
    return [
        _layer(1, 64, 64),
        _layer(128, 784, 512),
        _layer(1024, 2048, 2048),
        _step((64, 64, 64, 1), 32),
        _step(small, 200),
        _step(middle, 128),
        _step(large, 512),
        _epoch(6400, small, 200),
        _epoch(6400, middle, 128),
        *(_predict(n, middle) for n in (32, 1024, 16384)),
        *(_predict(1, sizes, "latency") for sizes in (small, middle, large)),
        *(_step((n, n, n), 128, "width") for n in WIDTHS),
        *(_step((128,) * (n + 1), 128, "depth") for n in (1, 2, 4, 8, 16)),
        *(_step((128, 128, 128), n, "rows") for n in (1, 8, 64, 512, 4096)),
        *(_step((128, 128, n), 128, "classes") for n in (2, 16, 128, 1024, 8192)),
    ]


def _timed(backend: Backend, call: Call, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        result = call()
    _wait(backend, result)
    return (time.perf_counter() - start) / times


def _wait(backend: Backend, result: Array) -> None:
    """Wait for the device, by fetching one number."""
    if result is not None and not isinstance(result, float | np.ndarray | np.generic):
        backend.to_numpy(result if result.ndim == 0 else result[(0,) * result.ndim])


def compare(work: Work, backends: Sequence[Backend], rounds: int = 7) -> list[Timing]:
    """Time one work on several backends, called in turn.

    Parameters
    ----------
    work : Work
        What to do.
    backends : sequence of Backend
        Where; ratios are to the first of them.
    rounds : int, default 7
        How often each is timed.

    Returns
    -------
    list of Timing
        One for each backend, in order.
    """
    calls: dict[int, Call] = {}
    errors: dict[int, str] = {}
    times: dict[int, int] = {}
    expected: Any = None
    for i, backend in enumerate(backends):
        try:
            with backend.scope():
                call = work.make(backend)
                for _ in range(2):  # to compile and to allocate memory
                    once = _timed(backend, call, 1)
                answer = _on_host(backend, call())
            expected = answer if expected is None else expected
            _check(answer, expected)
            calls[i], times[i] = call, max(1, round(_ROUND_SECONDS / once))
        except Exception as error:  # such as a lack of memory: the other backends go on
            errors[i] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    taken: dict[int, list[list[float]]] = {i: [] for i in calls}
    for _ in range(rounds):
        for i, call in calls.items():
            with backends[i].scope():
                time.sleep(_PAUSE)
                _timed(backends[i], call, 1)
                turns, each = (times[i], 1) if work.group == "latency" else (1, times[i])
                taken[i].append([_timed(backends[i], call, each) for _ in range(turns)])
    timings = []
    for i, backend in enumerate(backends):
        if i not in taken:
            timings.append(Timing(work.group, work.name, backend.spec, None, None, None, errors[i]))
            continue
        calls_taken = list(itertools.chain.from_iterable(taken[i]))
        median = statistics.median(calls_taken)
        medians = [[statistics.median(turn) for turn in taken[k]] for k in (i, 0) if k in taken]
        ratio = statistics.median(a / b for a, b in zip(*medians, strict=True)) if 0 in taken else None
        p99 = float(np.quantile(calls_taken, 0.99)) if work.group == "latency" else None
        timings.append(Timing(work.group, work.name, backend.spec, median, work.samples / median, ratio, "", p99))
    return timings


def _on_host(backend: Backend, answer: Any) -> Any:
    return np.asarray(answer if isinstance(answer, float | np.ndarray | np.generic) else backend.to_numpy(answer))


def _check(answer: Any, expected: Any) -> None:
    off = float(np.max(np.abs(answer - expected))) / (float(np.max(np.abs(expected))) or 1.0)
    if answer.shape != expected.shape or not off <= TOLERANCE:
        raise ValueError(f"its answer is off by {off:.2g} of the largest number")


def run(
    backends: Sequence[Backend], *, quick: bool = False, rounds: int = 7, chosen: Sequence[Work] | None = None
) -> Iterator[list[Timing]]:
    """Time everything, or what is `chosen`, one work after the other; see :func:`compare`."""
    for work in works(quick) if chosen is None else chosen:
        yield compare(work, backends, rounds)


def crossovers(timings: Sequence[Timing]) -> dict[str, int | None]:
    """Return for each other backend the width from which its step is faster than the first one's.

    Examples
    --------
    >>> def timed(backend, width, seconds):
    ...     return Timing("width", f"{width}-{width}-{width}, batch 128", backend, seconds, 1.0, 1.0)
    >>> crossovers([timed("a", 32, 1.0), timed("b", 32, 2.0), timed("a", 64, 4.0), timed("b", 64, 3.0)])
    {'b': 64}
    """
    seconds: dict[str, dict[int, float]] = {}
    for row in timings:
        if row.group == "width" and row.seconds is not None:
            seconds.setdefault(row.backend, {})[_grown(row)] = row.seconds
    if not seconds:
        return {}
    (_, reference), *others = seconds.items()
    found: dict[str, int | None] = {}
    for backend, own in others:
        start = None
        for width in sorted(set(own) & set(reference), reverse=True):
            if own[width] >= reference[width]:
                break
            start = width
        found[backend] = start
    return found


def _grown(row: Timing) -> int:
    sizes, _, batch = row.work.partition(", batch ")
    return GROWTH[row.group]([int(n) for n in sizes.split("-")], int(batch))


def plot(timings: Sequence[Timing], path: str) -> None:
    """Draw the time of a step against what grows, one panel for each of :data:`GROWTH`, one curve for each backend.

    Parameters
    ----------
    timings : sequence of Timing
        From :func:`run`.
    path : str
        Where to write the picture; its ending says in which format.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    grown = [row for row in timings if row.group in GROWTH and row.seconds is not None]
    groups = list(dict.fromkeys(row.group for row in grown)) or ["width"]
    figure = new_figure(5 * min(2, len(groups)), 3.6 * -(-len(groups) // 2))
    for number, group in enumerate(groups, start=1):
        axes = figure.add_subplot(-(-len(groups) // 2), min(2, len(groups)), number)
        rows = [row for row in grown if row.group == group]
        for backend in dict.fromkeys(row.backend for row in rows):
            own = [row for row in rows if row.backend == backend]
            seconds = [1e6 * (row.seconds or 0) for row in own]
            axes.loglog([_grown(row) for row in own], seconds, marker="o", label=backend)
        ticks = sorted({_grown(row) for row in rows})
        axes.set_xticks(ticks, map(str, ticks), minor=False)
        axes.minorticks_off()
        tidy(axes, group, "one training step (µs)").legend(frameon=False)
    figure.suptitle("One step of Adam, float32; what does not grow is 128")
    figure.savefig(path, dpi=150)
