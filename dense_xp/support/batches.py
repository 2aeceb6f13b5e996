"""Means over a batch: over the rows of this process, or over those of all processes that share the batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol

from array_api_compat import array_namespace

from dense_xp.backend import Array


class Sharing(Protocol):
    """A batch whose other rows are in other processes."""

    def means(self, means: Sequence[Array]) -> list[Array]:
        """Return the means over the whole batch, given those over the rows of this process."""

    def total(self, n: int) -> int:
        """Return how many rows the whole batch has, given how many this process has."""


_sharing: ContextVar[Sharing | None] = ContextVar("sharing", default=None)


def means(axis: int | tuple[int, ...], *arrays: Array) -> list[Array]:
    """Return the mean of each array, with the axes kept.

    Parameters
    ----------
    axis : int or tuple of int
        Along which.
    *arrays : array
        Real floating numbers.

    Examples
    --------
    >>> import numpy as np
    >>> means(0, np.asarray([[1.0], [3.0]]))
    [array([[2.]])]
    """
    return [array_namespace(array).mean(array, axis=axis, keepdims=True) for array in arrays]


def batch_means(axis: int | tuple[int, ...], *arrays: Array) -> list[Array]:
    """Return the mean of each array over the whole batch: as :func:`means`, with the rows of other processes.

    Parameters
    ----------
    axis : int or tuple of int
        All axes but that of the features.
    *arrays : array
        Real floating numbers.

    Examples
    --------
    >>> import numpy as np
    >>> batch_means(0, np.asarray([[1.0], [3.0]]))
    [array([[2.]])]
    """
    here, sharing = means(axis, *arrays), _sharing.get()
    return here if sharing is None else sharing.means(here)


def batch_rows(n: int) -> int:
    """Return how many rows the whole batch has.

    Parameters
    ----------
    n : int
        How many this process has.

    Examples
    --------
    >>> batch_rows(3)
    3
    """
    sharing = _sharing.get()
    return n if sharing is None else sharing.total(n)


@contextlib.contextmanager
def shared(sharing: Sharing) -> Iterator[None]:
    """Let :func:`batch_means` include the rows of other processes, within the block."""
    token = _sharing.set(sharing)
    try:
        yield
    finally:
        _sharing.reset(token)
