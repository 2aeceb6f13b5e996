"""How many threads the products of a training on NumPy may take.

BLAS takes every core for all but tiny products, and its threads wait for each other actively: where other processes
keep the cores busy, a small product then takes many times as long as on one thread.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

from dense_xp.layers.layer import Layer

WORK_OF_A_THREAD = 2**23
"""Multiplications for which one thread more is asked: about a tenth of a millisecond."""


def threads_for(model: Layer, rows: int) -> int:
    """Return how many threads the largest product of a step is worth.

    It depends on nothing but sizes, as a sum may be rounded differently by another number of threads.

    Parameters
    ----------
    model : Layer
        Initialized.
    rows : int
        Of the batch.
    """
    return 1 + rows * max((math.prod(value.shape) for value in model.weights.values()), default=0) // WORK_OF_A_THREAD


_limited = threading.Lock()


@contextlib.contextmanager
def few_threads(model: Layer, rows: int) -> Iterator[None]:
    """Limit the threads of BLAS, on NumPy and if `threadpoolctl` is there, to what a training is worth.

    The limit holds for the whole process and never raises what is set. Of trainings in several threads at the same
    time one sets it: two could not put back what was there.

    Parameters
    ----------
    model, rows
        As in :func:`threads_for`.
    """
    if model.built().name != "numpy" or not _limited.acquire(blocking=False):
        yield
        return
    many = []
    try:
        few = threads_for(model, rows)
        many = [(library, n) for library in _blas(len(sys.modules)) if (n := library.get_num_threads() or 1) > few]
        for library, _ in many:
            library.set_num_threads(few)
        yield
    finally:
        for library, n in many:
            library.set_num_threads(n)
        _limited.release()


@functools.lru_cache(maxsize=1)
def _blas(imported: int) -> list[Any]:
    """Return what sets the threads of each BLAS that is loaded; looked for again after imports, as it takes a while."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return []
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)
