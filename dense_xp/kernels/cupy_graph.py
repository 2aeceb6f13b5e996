"""A function of arrays as one recorded CUDA graph: launched whole, with Python and its hundred launches left out.

A graph repeats the very launches that it was recorded from: the same kernels on the same memory with the same numbers.
So what changes from call to call is copied to where it was at the recording: arrays into arrays that stay, numbers
into :attr:`Recorder.numbers`. Memory that the function asks for while it is recorded comes from a pool of the graph's
own, which lives as long as the graph. Results are copied out, because the next launch overwrites them.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import cupy
import cupyx

Array: TypeAlias = Any

WARM_UP = 2
"""Calls before the recording: they compile kernels and take the memory that stays."""

GRAPHS = 4
"""The most graphs of one recorder, one for each set of shapes; further shapes are computed call by call."""

RING = 16
"""Sets of numbers that may be on their way to the device at once: so many calls ahead of the device is the host."""


class Recorder:
    """Calls functions of arrays, recorded as soon as they were called often enough with arrays of the same shapes.

    Parameters
    ----------
    count : int
        How many numbers change from call to call.
    dtype : dtype
        What they are on the device.
    blas : module or None
        The products that can be recorded; None if there are none.
    why : str
        Why there are none.

    Attributes
    ----------
    numbers : array, shape (count,)
        Those numbers, on the device.
    graphs : dict
        What was recorded, for each set of shapes.
    reason : str
        Why nothing more is recorded; empty as long as nothing stands against it.
    """

    def __init__(self, count: int, dtype: Any, blas: Any, why: str = "") -> None:
        self.blas = blas
        self.reason = why
        self.numbers = cupy.empty(count, dtype=dtype)
        # a copy from ordinary memory would wait for the device
        self._ring = [cupyx.empty_pinned(count, dtype) for _ in range(RING)]
        self._copied = [cupy.cuda.Event(disable_timing=True) for _ in range(RING)]
        self._turn = 0
        self._calls: Counter[Any] = Counter()
        self.graphs: dict[Any, _Graph] = {}

    def __call__(self, function: Callable[..., Any], arrays: Any, numbers: Sequence[float]) -> Any:
        """Call a function, or launch what was recorded of it.

        Parameters
        ----------
        function : callable
            Launches the same work each time, on arrays of the same shapes. Returns a tuple of arrays.
        arrays : tuple
            Its arguments: arrays, None, or nested dicts of them.
        numbers : sequence of float
            What :attr:`numbers` are to be.
        """
        self._set(numbers)
        key = tuple((tuple(a.shape), a.dtype) if hasattr(a, "dtype") else a for a in _leaves(arrays))
        graph = self.graphs.get(key)
        if graph is None and self._calls[key] >= WARM_UP and len(self.graphs) < GRAPHS and not self.reason:
            try:
                graph = self.graphs[key] = _Graph(function, arrays, self.blas)
            except Exception as error:  # nothing was launched: what the function does not allow is done call by call
                self.reason = f"{type(error).__name__}: {error}"
        if graph is not None:
            return graph.launch(arrays)
        self._calls[key] += 1
        return function(*arrays)

    def _set(self, numbers: Sequence[float]) -> None:
        slot = self._turn % RING
        self._turn += 1
        self._copied[slot].synchronize()  # its copy was long ago
        self._ring[slot][:] = numbers
        stream = cupy.cuda.get_current_stream()
        size = self.numbers.nbytes
        upload = cupy.cuda.runtime.memcpyHostToDevice
        cupy.cuda.runtime.memcpyAsync(self.numbers.data.ptr, self._ring[slot].ctypes.data, size, upload, stream.ptr)
        self._copied[slot].record(stream)


class _Graph:
    """One recording, and all the memory that it works in."""

    def __init__(self, function: Callable[..., Any], arrays: Any, blas: Any) -> None:
        self._arrays = _mapped(lambda array: cupy.empty(array.shape, dtype=array.dtype), arrays)
        self._pool, self._device = cupy.cuda.MemoryPool(), cupy.cuda.Device()
        stream = _stream()
        self._handle = blas.Handle(stream.ptr)  # its own, for as long as it may be launched
        allocated = cupy.cuda.using_allocator(self._pool.malloc)
        with stream, allocated, blas.using(self._handle), _no_uploads(), _no_collection():
            stream.begin_capture()
            try:
                self._values = function(*self._arrays)
                self._graph = stream.end_capture()
            except BaseException:
                _abandon(stream)
                raise

    def __del__(self) -> None:
        self._values = self._arrays = self._graph = None  # first: a pool keeps what is in use, and is kept by it
        with contextlib.suppress(Exception), self._device:  # at the end of the program there may be no pool any more
            self._pool.free_all_blocks()  # of the device that is current

    def launch(self, arrays: Any) -> Any:
        """Launch it on the stream that is current now."""
        for place, array in zip(_leaves(self._arrays), _leaves(arrays), strict=True):
            if place is not None and not isinstance(place, str):
                place.data.copy_from_device_async(cupy.ascontiguousarray(array).data, place.nbytes)
        self._graph.launch()
        return _mapped(lambda value: value.copy(), self._values)


@contextlib.contextmanager
def _no_uploads() -> Iterator[None]:
    """Refuse to bring host data to the device while this thread records.

    For every upload CuPy asks for page-locked memory, and then keeps an event of the stream with it [1]_. An event
    of a recording never reports that it is done, so that memory, and that of all later uploads, would be kept for good.

    References
    ----------
    .. [1] CuPy 14.2, ``cupy/_core/core.pyx`` (``_array_default``) and ``cupy/cuda/pinned_memory.pyx``
       (``_add_to_watch_list``), https://github.com/cupy/cupy
    """
    pool, thread = cupy.get_default_pinned_memory_pool(), threading.get_ident()

    def malloc(size: int) -> Any:
        if threading.get_ident() == thread:
            raise RuntimeError(
                "the step brings host data to the device, such as a list of numbers in a metric of your own: "
                "place them there once, before the training"
            )
        return pool.malloc(size)

    cupy.cuda.set_pinned_memory_allocator(malloc)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(pool.malloc)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Let no garbage be collected: to give up a handle of cuBLAS that an old graph had waits for the device."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


_of_this_thread = threading.local()
_abandoned: list[Any] = []


def _stream() -> Any:
    """Return the stream to record on: the default one cannot be recorded."""
    streams: dict[str, Any] = _of_this_thread.__dict__
    device = str(cupy.cuda.runtime.getDevice())
    if device not in streams:
        streams[device] = cupy.cuda.Stream(non_blocking=True)
    return streams[device]


def _abandon(stream: Any) -> None:
    """End a recording that failed, and take another stream for the next one: CUDA may have marked it as broken."""
    _of_this_thread.__dict__.clear()
    _abandoned.append(stream)  # its address stays its own, under which its cuBLAS is kept
    with contextlib.suppress(Exception):  # that it is broken is what brought us here
        stream.end_capture()


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield the arrays of a tree in order, None for none, and the keys of its dicts."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from _leaves(value)
    elif isinstance(tree, tuple):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree


def _mapped(function: Callable[[Array], Array], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_mapped(function, value) for value in tree)
    return None if tree is None else function(tree)
