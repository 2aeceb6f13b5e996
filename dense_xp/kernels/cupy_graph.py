"""A function of arrays recorded as a CUDA graph: one launch in place of Python and a hundred launches.

A graph repeats the launches that were recorded: the same kernels on the same memory with the same numbers. So what
changes from call to call is first copied into that memory: arrays into arrays of the graph, numbers into
:attr:`Recorder.numbers`. Memory that the function allocates while it is recorded comes from a pool of the graph's own,
which lives as long as the graph. Results are copied, because the next launch overwrites them.
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
"""Calls before the recording: they compile kernels and allocate lasting memory."""

GRAPHS = 4
"""The most graphs of one recorder, one for each set of shapes; further shapes are computed call by call."""

RING = 16
"""Sets of numbers that may be in transfer at once: so many calls may the host be ahead of the device."""


class Recorder:
    """Calls functions of arrays, and records a graph after :data:`WARM_UP` calls with arrays of the same shapes.

    Parameters
    ----------
    count : int
        How many numbers change from call to call.
    dtype : dtype
        Their dtype on the device.
    blas : module or None
        The products that can be recorded; None if there are none.
    why : str
        Why there are none.

    Attributes
    ----------
    numbers : array, shape (count,)
        Those numbers, on the device.
    graphs : dict
        The graph for each set of shapes.
    reason : str
        Why no more graphs are recorded; empty if they can be.
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
        """Call a function, or launch its graph.

        Parameters
        ----------
        function : callable
            Launches the same work each time, on arrays of the same shapes. Returns a tuple of arrays.
        arrays : tuple
            Its arguments: arrays, None, or nested dicts of them.
        numbers : sequence of float
            The values of :attr:`numbers`.
        """
        self._set(numbers)
        key = tuple((tuple(a.shape), a.dtype) if hasattr(a, "dtype") else a for a in _leaves(arrays))
        graph = self.graphs.get(key)
        if graph is None and self._calls[key] >= WARM_UP and len(self.graphs) < GRAPHS and not self.reason:
            try:
                graph = self.graphs[key] = _Graph(function, arrays, self.blas)
            except Exception as error:  # nothing was launched: a function that cannot be recorded is called as usual
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
    """One graph, and all the memory that it uses."""

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
        self._values = self._arrays = self._graph = None  # first: the pool frees only memory that is not in use
        with contextlib.suppress(Exception), self._device:  # at the end of the program there may be no pool any more
            self._pool.free_all_blocks()  # of the current device

    def launch(self, arrays: Any) -> Any:
        """Launch it on the current stream."""
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
    """Disable garbage collection: destroying the cuBLAS handle of an old graph waits for the device."""
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
    """End a recording that failed, and let the next one use a new stream: CUDA may have invalidated this one."""
    _of_this_thread.__dict__.clear()
    _abandoned.append(stream)  # kept, so that no other stream gets its address, the key of its cuBLAS handle
    with contextlib.suppress(Exception):
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
