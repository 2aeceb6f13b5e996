"""Host data are copied to the device while the step before still computes: rows of batches, random numbers.

Ordinary host memory is copied by the driver, which makes the host wait. From page-locked memory the device copies by
itself, on a stream of its own: a :class:`~dense_xp.kernels.Lane`. So the rows of a batch are gathered into one of two
page-locked buffers and copied into one of two arrays on the device. Three rules keep the two apart: a buffer is filled
again once its copy is done, an array is copied into once the step that read it is done, and a step starts once its copy
is done. The host waits only for the first, a copy of two batches ago.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from dense_xp.backend import Array, Backend
from dense_xp.kernels import Lane, kernels_for, lane_for, optional
from dense_xp.layers.layer import Layer
from dense_xp.support.seeds import Draw, Rng
from dense_xp.support.trees import mapped, place

TURNS = 2


class Sender:
    """Sends arrays of the same shapes again and again, the last time perhaps with fewer rows.

    Parameters
    ----------
    lane : Lane
        What :func:`dense_xp.kernels.lane_for` returned.
    shapes : sequence of tuple of int
        The largest that will be sent.
    dtypes : sequence of dtype
        NumPy's, for the host and the device.
    """

    def __init__(self, lane: Lane, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Any]) -> None:
        self.lane, self.sent = lane, 0
        self.turns = [_Turn(lane, shapes, dtypes) for _ in range(TURNS)]
        # memory must not be freed while copies into it are still running, except at the end of the program
        weakref.finalize(self, lane.finish).atexit = False

    def send(self, rows: Sequence[int], fill: Callable[[list[Any]], None]) -> list[Array]:
        """Fill buffers with these numbers of rows; return arrays, which are overwritten two calls later."""
        lane, turn = self.lane, self.turns[self.sent % TURNS]
        lane.work_marks(self.turns[(self.sent - 1) % TURNS].used)  # all work that reads its arrays has been launched
        self.sent += 1
        lane.host_waits(turn.copied)
        buffers = [buffer[:n] for buffer, n in zip(turn.buffers, rows, strict=True)]
        arrays = [array[:n] for array, n in zip(turn.arrays, rows, strict=True)]
        fill(buffers)
        lane.waits(turn.used)
        for buffer, array in zip(buffers, arrays, strict=True):
            lane.send(buffer, array)
        lane.marks(turn.copied)
        lane.work_waits(turn.copied)
        return arrays


class _Turn:
    def __init__(self, lane: Lane, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Any]) -> None:
        self.buffers = [lane.pinned(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self.arrays = [lane.empty(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self.copied, self.used = lane.event(), lane.event()
        lane.work_marks(self.used)  # earlier work may still use this memory


class Source(Protocol):
    """Data on the host whose rows can be gathered."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data."""

    def gather(self, rows: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        """Write the rows with these indices into host memory."""


class Feeder:
    """Brings batches of host arrays to the device.

    Parameters
    ----------
    lane : Lane
        What :func:`dense_xp.kernels.lane_for` returned.
    sources : sequence of Source
        Data on the host, of the same samples.
    dtypes : sequence of dtype
        Those of their rows on the device.
    batch_size : int
        The most rows of a batch.
    """

    def __init__(self, lane: Lane, sources: Sequence[Source], dtypes: Sequence[Any], batch_size: int) -> None:
        self.sources = sources
        self.sender = Sender(lane, [(batch_size, *source.shape[1:]) for source in sources], dtypes)

    def batches(self, chunks: Iterable[Any]) -> Iterator[list[Array]]:
        """Yield the rows of each chunk, an array of indices; the arrays are overwritten two batches later."""
        for rows in chunks:

            def gather(buffers: list[Any], rows: Any = rows) -> None:
                for source, buffer in zip(self.sources, buffers, strict=True):
                    source.gather(rows, buffer)

            yield self.sender.send([len(rows)] * len(self.sources), gather)


class NoiseFeeder:
    """Brings the random numbers of each step to the device, or has the device draw them."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.lane = backend, lane_for(backend.kernels, backend.device)
        kernels = None if self.lane is None else kernels_for(backend.kernels)
        self.drawn_there = optional(kernels, "uniform_at_least")
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[Any] = []

    def drawn(self, model: Layer, rng: Rng, batch_shape: tuple[int, ...]) -> Any:
        """Return on the device what :meth:`Layer.draw_noise` draws; it is overwritten two calls later."""
        if self.drawn_there is not None and type(rng) is np.random.Generator:
            from dense_xp.support.skipping import SkippingGenerator

            if type(rng.bit_generator) is np.random.PCG64:
                rng = SkippingGenerator(rng.bit_generator)
        return self.placed(model.draw_noise(rng, batch_shape))

    def placed(self, noise: Any) -> Any:
        """Return noise that was drawn on the host, on the device; what was left to the device is drawn there."""
        drawn: list[np.ndarray[Any, Any]] = []
        if noise is None or self.lane is None:
            return noise if noise is None else place(self.backend, noise)

        def collect(array: Any) -> None:
            if not isinstance(array, Draw):
                drawn.append(np.atleast_1d(array))

        mapped(collect, noise)
        if drawn and not self._fits(drawn):
            self.shapes, self.dtypes = [array.shape for array in drawn], [array.dtype for array in drawn]
            self.sender = Sender(self.lane, self.shapes, self.dtypes)

        def fill(buffers: list[Any]) -> None:
            for array, buffer in zip(drawn, buffers, strict=True):
                buffer[...] = array

        sent = iter(self.sender.send([len(array) for array in drawn], fill) if drawn else ())

        def there(array: Any) -> Array:
            return self.drawn_there(*array) if isinstance(array, Draw) else next(sent).reshape(np.shape(array))

        return mapped(there, noise)

    def _fits(self, drawn: Sequence[np.ndarray[Any, Any]]) -> bool:
        return len(drawn) == len(self.shapes) and all(
            array.dtype == dtype and array.shape[1:] == shape[1:] and len(array) <= shape[0]
            for array, shape, dtype in zip(drawn, self.shapes, self.dtypes, strict=True)
        )
