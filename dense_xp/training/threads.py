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
"""Multiplications that are worth one more thread: about a tenth of a millisecond."""

UPDATE = 32
"""Multiplications that take as long as the update of a weight."""


def threads_for(model: Layer, rows: int) -> int:
    """Return how many threads the largest layer of a step is worth.

    It depends on sizes alone, because another number of threads may round sums differently.

    Parameters
    ----------
    model : Layer
        Initialized.
    rows : int
        Of the batch.
    """
    largest = max((math.prod(value.shape) for value in model.weights.values()), default=0)
    return 1 + (rows + UPDATE) * largest // WORK_OF_A_THREAD


_limited = threading.Lock()


@contextlib.contextmanager
def few_threads(model: Layer, rows: int) -> Iterator[None]:
    """Limit the threads of BLAS to :func:`threads_for`, on NumPy and if `threadpoolctl` is installed.

    The limit holds for the whole process and never raises what is set. If several threads train at the same time,
    only the first one sets it: two could not restore the old limit.

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
    """Return the controllers of all loaded BLAS libraries; searched again only after imports, as that is slow."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return []
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)
