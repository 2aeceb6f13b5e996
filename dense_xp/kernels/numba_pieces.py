"""Loops over large arrays in pieces, on as many threads as BLAS may have.

Pieces are cut by the shape alone, and their sums are added in order: the bits are the same for any number of threads.
Between two calls the threads sleep, since a product comes next, and the threads of BLAS need the cores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dense_xp.kernels.numba_team import Team, closed, entered, left, opened
from dense_xp.kernels.numpy import Array

PIECE = 1 << 17
"""Numbers in a piece: some fifty microseconds of work or more. Between two, threads wait for the GIL."""

LEAST = 2 * PIECE
"""Smaller arrays are not cut: a thread needs some tens of microseconds to wake up."""

ROWS = 32
"""The fewest rows of a piece in a kernel with sums over rows, because those of all pieces must be added up."""


class Pieces(Team):
    """Threads that take numbered pieces of a call."""

    def __init__(self) -> None:
        super().__init__(self._serve, 1)
        self._call: tuple[Callable[[int], None], Iterator[int]] = (lambda i: None, iter(()))
        self._errors: list[BaseException] = []

    def run(self, do: Callable[[int], None], count: int) -> None:
        """Call ``do(i)`` for each i below `count`, in any order and on several threads at once."""
        others = self.take(count - 1)
        if not others:
            for i in range(count):
                do(i)
            return
        try:
            self._call = do, iter(range(count))  # by the GIL, each number goes to one thread
            self._errors.clear()
            opened(self.memory, others)
            try:
                self._work()
            finally:
                closed(self.memory)
            if self._errors:
                raise self._errors[0]
        finally:
            self.give_back()

    def _work(self) -> None:
        do, numbers = self._call
        for i in numbers:
            do(i)

    def _serve(self, memory: int, job: Any, me: int) -> None:
        seen = 0
        while seen := entered(memory, me, seen, 1):
            try:
                self._work()
            except BaseException as error:  # the caller raises it
                self._errors.append(error)
            finally:
                left(memory)


_PIECES = Pieces()


def parts_of(array: Array, least: int = 1, piece: int = PIECE) -> list[slice]:
    """Return the pieces of an array along its first axis: one if it is small."""
    if array.size < LEAST:
        return [slice(None)]
    size = max(least, piece * len(array) // array.size)
    return [slice(start, start + size) for start in range(0, len(array), size)]


def in_pieces(*cut: int, sums: Sequence[int] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Call a kernel on pieces of its arguments, if they are large.

    Parameters
    ----------
    *cut : int
        Positions of the arguments that are cut along their first axis.
    sums : sequence of int
        Positions of those that receive sums along it.
    """

    def of(kernel: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(kernel)
        def shared(*args: Any) -> None:
            parts = parts_of(args[cut[0]], ROWS if sums else 1)
            if len(parts) == 1:
                kernel(*args)
                return
            apart = {place: np.empty((len(parts), *args[place].shape), args[place].dtype) for place in sums}

            def do(i: int) -> None:
                own = list(args)
                for place in cut:
                    own[place] = args[place][parts[i]]
                for place, array in apart.items():
                    own[place] = array[i]
                kernel(*own)

            _PIECES.run(do, len(parts))
            for place, array in apart.items():
                np.sum(array, axis=0, out=args[place])

        return shared

    return of


def total(part: Callable[[slice], float], array: Array) -> float:
    """Return the sum of ``part(rows)`` over the pieces of an array, added in order."""
    parts = parts_of(array, piece=2 * PIECE)  # larger, as each is several calls
    if len(parts) == 1:
        return part(parts[0])
    values = [0.0] * len(parts)

    def do(i: int) -> None:
        values[i] = part(parts[i])

    _PIECES.run(do, len(parts))
    return sum(values)
