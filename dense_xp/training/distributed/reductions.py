"""Sums of arrays over all ranks: in host memory, or on the devices."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from dense_xp.backend import Array, Backend
from dense_xp.kernels import reductions_for
from dense_xp.training.distributed.ranks import Ranks
from dense_xp.training.distributed.signals import SharedInterrupts

HEAD = 2
"""A buffer of gradients begins with so many numbers that count signals."""


class Reduction(Protocol):
    """Adds up arrays of the same shape and dtype, one on each rank."""

    def sum(self, array: Array, interrupts: SharedInterrupts | None = None) -> Array:
        """Return the sum, which may lie in the memory of the array.

        Parameters
        ----------
        array : array, shape (n,)
            Contiguous, and not needed any more.
        interrupts : SharedInterrupts, optional
            Told of the signals of all ranks, which the first :data:`HEAD` numbers carry.
        """


class OnHost:
    """By MPI, in host memory: serves every library."""

    def __init__(self, ranks: Ranks, backend: Backend) -> None:
        self.ranks, self.backend = ranks, backend

    def sum(self, array: Array, interrupts: SharedInterrupts | None = None) -> Array:
        """Return the sum; see :meth:`Reduction.sum`."""
        host = self.backend.to_numpy(array)  # a view if the array is on the host
        if not host.flags.writeable:
            host = host.copy()
        if interrupts is not None:
            host[:HEAD] = interrupts.asked
        self.ranks.sum(host)
        if interrupts is not None:
            interrupts.agree(host[:HEAD].tolist())
        return self.backend.asarray(host)


class OnDevice:
    """On the devices, by a reduction of :mod:`dense_xp.kernels`; counts of signals are added up by MPI.

    Parameters
    ----------
    ranks : Ranks
        Who takes part.
    add : callable
        Adds up in place.
    """

    def __init__(self, ranks: Ranks, add: Any) -> None:
        self.ranks, self.add = ranks, add

    def sum(self, array: Array, interrupts: SharedInterrupts | None = None) -> Array:
        """Return the sum; see :meth:`Reduction.sum`."""
        self.add(array)
        if interrupts is not None:  # reading them from the array would wait for the device
            asked = np.asarray(interrupts.asked)
            self.ranks.sum(asked)
            interrupts.agree(asked.tolist())
        return array


def reduction_for(ranks: Ranks, backend: Backend) -> Reduction:
    """Return the reduction that was asked for, or with "auto" the best one.

    Raises
    ------
    ValueError
        If it does not serve this backend, or cannot be used here.
    """
    asked, family = ranks.reduce, backend.kernels
    if asked == "host":
        return OnHost(ranks, backend)
    ways = reductions_for(family)
    if asked != "auto" and asked not in ways:
        raise ValueError(
            f"reduce={asked!r} does not serve the backend {backend}, for which there are "
            f"{', '.join(map(repr, ('host', *ways)))}"
        )
    for name, way in ways.items():
        reason = way.unusable(ranks.local_rank, ranks.local_size)
        if name == asked and reason:
            raise ValueError(f"reduce={asked!r} cannot be used: {reason}")
        if name == asked or (asked == "auto" and way.preferred and not reason):
            return OnDevice(ranks, way(ranks.comm))
    return OnHost(ranks, backend)
