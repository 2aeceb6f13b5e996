"""How fast the backends of this machine are, side by side: one layer, one step, one epoch, one prediction.

All backends do the same work on the same data, called in turn, in rounds, so that whatever else the machine
does hits all alike. A number is the median over rounds; a ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_xp.backend import Array, Backend
from dense_xp.layers.dense import Dense
from dense_xp.learning.optimizers import Adam
from dense_xp.training.fitting import repeated_step
from dense_xp.training.sequential import Sequential

WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
"""Widths of the two layers whose step is timed to find where one backend overtakes another."""

_ROUND_SECONDS = 0.05  # each round repeats the work for about this long
_PAUSE = 0.02  # before each: a library's threads spin for a while after its work, and would slow the next one

Call = Callable[[], Any]  # does the work once; returns an array that is there when the work is done


@dataclass(frozen=True)
class Work:
    """Something to time.

    Attributes
    ----------
    group : str
        ``"layer"``, ``"step"``, ``"epoch"``, ``"predict"`` or ``"width"``.
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
        What that means for the data.
    ratio : float or None
        Median ratio to the first backend.
    error : str
        Why it failed; empty if it did not.
    """

    group: str
    work: str
    backend: str
    seconds: float | None
    samples_per_second: float | None
    ratio: float | None
    error: str = ""


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

        def call() -> None:
            model.fit(X, y, 1, batch, rng=0, verbose=False)  # it ends by reading the losses

        return call

    return Work("epoch", f"{n:,} × {'-'.join(map(str, sizes))}, batch {batch}, data on the host", n, make)


def _predict(batch: int, sizes: Sequence[int]) -> Work:
    def make(backend: Backend) -> Call:
        model, X = network(sizes, backend), _data(batch, sizes)[0]
        return lambda: model.predict(X, batch_size=batch)  # comes back to the host

    return Work("predict", f"{batch:,} × {'-'.join(map(str, sizes))}, from and to the host", batch, make)


def works(quick: bool = False) -> list[Work]:
    """Return everything that is timed; `quick` leaves the large ones out."""
    small, middle, large = (64, 100, 10), (784, 512, 512, 10), (1024, 2048, 2048, 1000)
    if quick:
        return [
            _layer(32, 64, 64),
            _step(small, 200),
            _epoch(600, small, 200),
            _predict(1, small),
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
        _predict(1, middle),
        _predict(1024, middle),
        _predict(16384, middle),
        *(_step((n, n, n), 128, "width") for n in WIDTHS),
    ]


def _timed(backend: Backend, call: Call, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        result = call()
    _wait(backend, result)
    return (time.perf_counter() - start) / times


def _wait(backend: Backend, result: Array) -> None:
    """Fetch one number: it is there when everything before it is done."""
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
    for i, backend in enumerate(backends):
        try:
            with backend.scope():
                call = work.make(backend)
                for _ in range(3):  # compiled, and the memory there
                    once = _timed(backend, call, 1)
            calls[i], times[i] = call, max(1, round(_ROUND_SECONDS / once))
        except Exception as error:  # such as memory that a device does not have: the others go on
            errors[i] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    taken: dict[int, list[float]] = {i: [] for i in calls}
    for _ in range(rounds):
        for i, call in calls.items():
            with backends[i].scope():
                time.sleep(_PAUSE)
                _timed(backends[i], call, 1)
                taken[i].append(_timed(backends[i], call, times[i]))
    timings = []
    for i, backend in enumerate(backends):
        if i not in taken:
            timings.append(Timing(work.group, work.name, backend.spec, None, None, None, errors[i]))
            continue
        median = statistics.median(taken[i])
        ratio = statistics.median(a / b for a, b in zip(taken[i], taken[0], strict=True)) if 0 in taken else None
        timings.append(Timing(work.group, work.name, backend.spec, median, work.samples / median, ratio))
    return timings


def run(backends: Sequence[Backend], *, quick: bool = False, rounds: int = 7) -> Iterator[list[Timing]]:
    """Time everything, one work after the other; see :func:`compare`."""
    for work in works(quick):
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
            seconds.setdefault(row.backend, {})[_width(row)] = row.seconds
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


def _width(row: Timing) -> int:
    return int(row.work.partition("-")[0])


def check_plot() -> None:
    """Raise ImportError, with the remedy, if there is no matplotlib: better before the work than after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('the plot needs matplotlib: run  pip install "dense-xp[bench]"')


def plot(timings: Sequence[Timing], path: str) -> None:
    """Draw the time of a step against the width of its layers, one curve for each backend.

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
    check_plot()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rows = [row for row in timings if row.group == "width" and row.seconds is not None]
    for backend in dict.fromkeys(row.backend for row in rows):
        own = [row for row in rows if row.backend == backend]
        axes.loglog([_width(row) for row in own], [1e6 * (row.seconds or 0) for row in own], marker="o", label=backend)
    ticks = sorted({_width(row) for row in rows})
    axes.set_xticks(ticks, map(str, ticks), minor=False)
    axes.minorticks_off()
    axes.set(xlabel="width n of the layers n-n-n", ylabel="one training step (µs)")
    axes.set_title("One step of Adam, batch 128, float32", loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
