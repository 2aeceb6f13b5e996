"""What the stand-in for CuPy claims of CuPy, each with the place that says so; on a machine with a GPU, CuPy is asked.

The places are those of CuPy 14.2.0, https://github.com/cupy/cupy/tree/v14.2.0, and of NVIDIA's "CUDA Runtime API" 13.0.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dense_xp.backend import BackendError, get_backend
from tests.stand_ins import cuda_on_host, cupy_on_host


@pytest.fixture(params=["the-stand-in", "cupy"])
def cp(request: pytest.FixtureRequest) -> Any:
    if request.param == "the-stand-in":
        if cupy_on_host.COMPILER is None:
            pytest.skip("there is no C++ compiler")
        return cuda_on_host.cupy()
    try:
        get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error))
    return importlib.import_module("cupy")


def recorded(cp: Any, function: Callable[[], Any], pool: Any) -> tuple[Any, Any]:
    """Record what a function launches; return what it returned, and the graph."""
    stream = cp.cuda.Stream(non_blocking=True)
    with stream, cp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        try:
            values = function()
        except BaseException:
            with contextlib.suppress(Exception):  # it is broken, which is what the claim is about
                stream.end_capture()
            raise
        return values, stream.end_capture()


def host(array: Any) -> Any:
    return array.get()


def test_the_default_stream_is_not_recorded(cp: Any) -> None:
    """cupy/cuda/stream.pyx:393."""
    with pytest.raises(RuntimeError, match="default"):
        cp.cuda.get_current_stream().begin_capture()


def test_a_product_of_cupys_own_is_refused_in_a_recording(cp: Any) -> None:
    """cupy_backends/cuda/libs/cublas.pyx:648, by which each call of cuBLAS comes."""
    A = cp.asarray(np.ones((3, 3), np.float32))
    out = cp.empty((3, 3), dtype=np.float32)
    with pytest.raises(NotImplementedError, match="during stream capture"):
        recorded(cp, lambda: cp.dot(A, A, out=out), cp.cuda.MemoryPool())
    np.testing.assert_array_equal(host(cp.dot(A, A)), np.full((3, 3), 3.0))  # and the next one is as ever


def test_to_look_at_a_number_breaks_a_recording(cp: Any) -> None:
    """cudaErrorStreamCaptureUnsupported: "CUDA Runtime API", Stream Management, cudaStreamBeginCapture."""
    x = cp.asarray(np.ones(3, np.float32))
    with pytest.raises(Exception, match=r"cudaErrorStreamCapture(Unsupported|Implicit|Invalidated)"):
        recorded(cp, lambda: float(x[0]), cp.cuda.MemoryPool())


def test_a_recording_does_nothing_and_each_launch_does_it_again(cp: Any) -> None:
    """cupy/cuda/stream.pyx:350 and graph.pyx:44."""
    x = cp.asarray(np.ones(3, np.float32))
    pool = cp.cuda.MemoryPool()

    def double() -> Any:
        x[...] = x * 2.0
        return x + 1.0

    y, graph = recorded(cp, double, pool)
    np.testing.assert_array_equal(host(x), [1, 1, 1])
    for expected in (2.0, 4.0):
        graph.launch()
        cp.cuda.get_current_stream().synchronize()
        np.testing.assert_array_equal(host(x), [expected] * 3)
        np.testing.assert_array_equal(host(y), [expected + 1.0] * 3)


def test_a_pool_may_grow_in_a_recording(cp: Any) -> None:
    """The relaxed mode is CuPy's default for that: cupy/cuda/stream.pyx:395."""
    x = cp.asarray(np.ones(1 << 12, np.float32))
    pool = cp.cuda.MemoryPool()
    y, graph = recorded(cp, lambda: ((x + 1.0) * 2.0) - x, pool)
    graph.launch()
    cp.cuda.get_current_stream().synchronize()
    assert float(y[0]) == 3.0


def test_sums_are_recorded(cp: Any) -> None:
    """They ask for no number: cupy/_core/_routines_math.pyx, cupy/_core/_reduction.pyx."""
    x = cp.asarray(np.ones((9, 7), np.float32))
    pool = cp.cuda.MemoryPool()
    (down, whole), graph = recorded(cp, lambda: (cp.sum(x, axis=0), cp.sum(x)), pool)
    graph.launch()
    cp.cuda.get_current_stream().synchronize()
    np.testing.assert_array_equal(host(down), [9.0] * 7)
    assert float(whole) == 63.0


def test_an_event_that_was_never_recorded_is_waited_for_in_no_time(cp: Any) -> None:
    """ "CUDA Runtime API", Event Management, cudaEventSynchronize and cudaStreamWaitEvent."""
    event = cp.cuda.Event(disable_timing=True)
    event.synchronize()
    cp.cuda.get_current_stream().wait_event(event)


def test_every_upload_asks_the_allocator_of_page_locked_memory(cp: Any) -> None:
    """cupy/_core/core.pyx:2919: so our refusal within a recording is heard before anything happened."""
    asked: list[int] = []
    pool = cp.get_default_pinned_memory_pool()

    def malloc(size: int) -> Any:
        asked.append(size)
        return pool.malloc(size)

    cp.cuda.set_pinned_memory_allocator(malloc)
    try:
        for data in ([1.0, 2.0], (1.0,), np.ones(3, np.float32), 1.0):
            before = len(asked)
            cp.asarray(data)
            assert len(asked) > before, data
    finally:
        cp.cuda.set_pinned_memory_allocator(pool.malloc)


@pytest.mark.parametrize("join", ["stack", "concatenate"])
def test_more_than_eight_arrays_are_joined_by_their_addresses(cp: Any, join: str) -> None:
    """cupy/_core/_routines_manipulation.pyx:745 and 881: which are brought to the device."""
    asked: list[int] = []
    pool = cp.get_default_pinned_memory_pool()

    def malloc(size: int) -> Any:
        asked.append(size)
        return pool.malloc(size)

    arrays = [cp.asarray(np.ones(3, np.float32)) for _ in range(9)]
    cp.cuda.set_pinned_memory_allocator(malloc)
    try:
        getattr(cp, join)(arrays[:8])
        assert not asked
        getattr(cp, join)(arrays)
        assert asked
    finally:
        cp.cuda.set_pinned_memory_allocator(pool.malloc)


def test_a_dropped_graph_gives_its_memory_back(cp: Any) -> None:
    """cupy/cuda/memory.pyx:1400, once nothing of it is in use: a pool keeps what is, and is kept by it."""
    pool = cp.cuda.MemoryPool()
    x = cp.asarray(np.ones(1 << 16, np.float32))
    y, graph = recorded(cp, lambda: x + 1.0, pool)
    graph.launch()
    cp.cuda.get_current_stream().synchronize()
    assert pool.total_bytes() >= y.nbytes
    del y, graph
    gc.collect()
    pool.free_all_blocks()
    assert pool.total_bytes() == 0
