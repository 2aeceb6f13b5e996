"""Rows of host data on their way to the device while the step before still computes.

Ordinary host memory is copied by the driver, which makes the host wait. From page-locked memory the device copies by
itself, on a stream of its own. So the rows of a batch are gathered into one of two page-locked buffers and copied into
one of two arrays on the device, and three rules keep the turns apart: a buffer is filled again once its copy is done,
an array is copied into once the step that read it is done, and a step starts once its copy is done. Only the first is
waited for by the host, and that copy was two turns ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from dense_xp.backend import Array
from dense_xp.kernels import Lane

TURNS = 2


class Source(Protocol):
    """Data on the host whose rows can be gathered."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all of it."""

    def gather(self, rows: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        """Write rows, given by their numbers, into memory of the host."""


class Feeder:
    """Brings batches of host arrays to the device.

    Parameters
    ----------
    lane : Lane
        What :func:`dense_xp.kernels.lane_for` returned.
    sources : sequence of Source
        Data on the host, of the same samples.
    dtypes : sequence of dtype
        What their rows are to be on the device.
    batch_size : int
        The most rows of a batch.
    """

    def __init__(self, lane: Lane, sources: Sequence[Source], dtypes: Sequence[Any], batch_size: int) -> None:
        self.lane, self.sources = lane, sources
        shapes = [(batch_size, *source.shape[1:]) for source in sources]
        self.turns = [_Turn(lane, shapes, dtypes) for _ in range(TURNS)]

    def batches(self, chunks: Iterable[Any]) -> Iterator[list[Array]]:
        """Yield the rows of each chunk, an array of indices; the arrays are those of another batch two turns later."""
        try:
            for i, rows in enumerate(chunks):
                turn = self.turns[i % TURNS]
                arrays = turn.filled(self.lane, self.sources, rows)
                self.lane.work_waits(turn.copied)
                yield arrays
                self.lane.work_marks(turn.used)
        finally:
            self.lane.finish()  # a copy may still be on its way into memory that is now given back


class _Turn:
    def __init__(self, lane: Lane, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Any]) -> None:
        self.buffers = [lane.pinned(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self.arrays = [lane.empty(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self.copied, self.used = lane.event(), lane.event()
        lane.work_marks(self.used)  # whoever had this memory before may still be at work

    def filled(self, lane: Lane, sources: Sequence[Source], rows: Any) -> list[Array]:
        lane.host_waits(self.copied)
        n = len(rows)
        for source, buffer in zip(sources, self.buffers, strict=True):
            source.gather(rows, buffer[:n])
        lane.waits(self.used)
        for buffer, array in zip(self.buffers, self.arrays, strict=True):
            lane.send(buffer[:n], array[:n])
        lane.marks(self.copied)
        return [array[:n] for array in self.arrays]
