"""Arrays from one library to another: shared where both work on the same memory, through the host where they do not.

A device that two libraries share is played by a stand-in: arrays that say by the DLPack protocol that they lie on
a CUDA device, and that the host cannot read.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

from dense_xp import Dense, ForeignArrayError, get_backend, to_numpy
from dense_xp.backend import Backend, BackendError, lookup

CUDA = 2  # kDLCUDA


def address(array: Any) -> int:
    """Return where the first number of an array lies."""
    if hasattr(array, "unsafe_buffer_pointer"):  # JAX
        return int(array.unsafe_buffer_pointer())
    return int(array.data_ptr() if hasattr(array, "data_ptr") else array.__array_interface__["data"][0])


# ------------------------------------------------------------------ host memory


def test_numpy_and_torch_share_memory() -> None:
    torch = pytest.importorskip("torch")
    host = np.arange(6.0, dtype="float32").reshape(2, 3)
    tensor = get_backend("torch").asarray(host)
    assert address(tensor) == address(host)
    back = get_backend("numpy").asarray(tensor)
    assert address(back) == address(to_numpy(tensor)) == address(host)
    learning = torch.ones(3, requires_grad=True)
    assert address(get_backend("numpy").asarray(learning)) == address(learning)


def test_another_dtype_is_a_copy() -> None:
    pytest.importorskip("torch")
    host = np.arange(3.0, dtype="float32")
    assert address(get_backend("torch").asarray(host, "float64")) != address(host)
    assert address(get_backend("torch").asarray(host, "float32")) == address(host)


def test_memory_of_jax_is_written_into_by_nobody() -> None:
    """Its arrays never change: what others could write into is a copy, both ways."""
    pytest.importorskip("jax")
    backend = get_backend("jax")
    host = np.arange(64, dtype="float32")
    ours = backend.asarray(host)
    host[:] = -1
    np.testing.assert_array_equal(to_numpy(ours), np.arange(64))
    seen = get_backend("numpy").asarray(ours)
    assert address(seen) == address(ours)
    assert not seen.flags.writeable
    try:
        torch = get_backend("torch")
    except BackendError:
        return
    tensor = torch.asarray(ours)
    tensor[:] = -1
    np.testing.assert_array_equal(to_numpy(ours), np.arange(64))
    again = backend.asarray(tensor)
    tensor[:] = 7
    np.testing.assert_array_equal(to_numpy(again), -1)


def test_jax_copies_on_a_device_that_it_shares() -> None:
    """As the CPU, where torch plays the neighbour; the same two methods serve a GPU."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("jax")
    library, backend = lookup.LIBRARIES["jax"], get_backend("jax")
    ours = backend.asarray(np.arange(64, dtype="float32"))
    tensor = torch.from_dlpack(library.lend(ours))
    assert address(tensor) != address(ours)
    tensor[:] = -1
    np.testing.assert_array_equal(to_numpy(ours), np.arange(64))
    borrowed = library.borrow(backend.xp, tensor)
    assert address(borrowed) != address(tensor)
    tensor[:] = 7
    np.testing.assert_array_equal(to_numpy(borrowed), -1)


def test_weights_can_be_seen_from_outside() -> None:
    torch = pytest.importorskip("torch")
    for backend, see in (("numpy", torch.from_dlpack), ("torch", np.from_dlpack), ("numpy", np.from_dlpack)):
        layer = Dense(3, (2,), backend=backend, rng=0)
        layer.initialize()
        assert address(see(layer.W)) == address(layer.W)


# ------------------------------------------------------------------ a device that two libraries share


class OnDevice:
    """An array on a CUDA device."""

    library: Any = None

    def __init__(self, memory: Any, number: int = 0) -> None:
        self.memory, self.number = memory, number

    shape = property(lambda self: self.memory.shape)
    ndim = property(lambda self: self.memory.ndim)
    dtype = property(lambda self: self.memory.dtype)
    device = property(lambda self: f"cuda:{self.number}")

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.library

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.number

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("this array is not on the host")


def library(name: str, number: int = 0, **names: Any) -> Any:
    """Make a library whose current device has that number."""
    made: Any = types.ModuleType(name)

    class Array(OnDevice):
        library = made

    def empty(shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
        return Array(np.empty(shape, dtype or "float32"), number)

    def from_dlpack(array: Any) -> Any:
        made.borrowed += 1
        return Array(array.__dlpack__().memory, array.__dlpack_device__()[1])

    def astype(array: Any, dtype: Any) -> Any:
        return Array(array.memory.astype(dtype), array.number)

    def asarray(data: Any) -> Any:
        return Array(np.asarray(data), number)

    vars(made).update(borrowed=0, matmul=None, isdtype=np.isdtype, float32=np.float32, float64=np.float64)
    vars(made).update(empty=empty, from_dlpack=from_dlpack, astype=astype, asarray=asarray, **names)
    return made


def test_neighbours_on_a_device_share_memory() -> None:
    one, two = library("one"), library("two")
    theirs = one.asarray(np.arange(3.0, dtype="float32"))
    ours = get_backend(two).asarray(theirs)
    assert ours.library is two
    assert ours.memory is theirs.memory
    assert two.borrowed == 1
    assert ours is get_backend(two).asarray(ours)
    other = get_backend(two).asarray(theirs, "float64")
    assert other.dtype == "float64"
    assert two.borrowed == 2


def test_what_lies_elsewhere_goes_through_the_host() -> None:
    one, two, far = library("one"), library("two"), library("far", 1)
    theirs = one.asarray(np.arange(3.0, dtype="float32"))
    for target in (get_backend(far), get_backend("numpy")):
        with pytest.raises(TypeError, match="not on the host"):
            target.asarray(theirs)
    assert far.borrowed == 0
    host = np.arange(3.0, dtype="float32")
    assert get_backend(two).asarray(host).memory is host
    assert two.borrowed == 0


def test_what_is_spread_over_devices_goes_through_the_host() -> None:
    one, two = library("one"), library("two")
    theirs = one.asarray(np.arange(3.0, dtype="float32"))
    theirs.__class__.__dlpack_device__ = lambda self: 1 / 0
    with pytest.raises(TypeError, match="not on the host"):
        get_backend(two).asarray(theirs)


def test_bfloat16_is_float32_where_there_is_none() -> None:
    """The host knows no bfloat16 and has it as float32; so does a neighbour without it."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    one = library("one", bfloat16=ml_dtypes.bfloat16)
    theirs = one.asarray(np.arange(3.0).astype(ml_dtypes.bfloat16))
    knows, lacks = library("knows", bfloat16=ml_dtypes.bfloat16), library("lacks")
    assert get_backend(knows).asarray(theirs).memory is theirs.memory
    with pytest.raises(TypeError, match="not on the host"):
        get_backend(lacks).asarray(theirs)
    assert lacks.borrowed == 0


def test_data_never_move_unasked(backend: Backend) -> None:
    layer = Dense(3, (2,), backend=backend)
    layer.initialize()
    with pytest.raises(ForeignArrayError, match=r"layer\.backend\.asarray\(X\)"):
        layer.forward_pass(library("elsewhere").asarray(np.ones((1, 2), "float32")))


def test_cupy_and_torch_share_memory_on_a_gpu() -> None:
    try:
        cupy, torch = get_backend("cupy:0"), get_backend("torch:cuda:0")
    except BackendError as error:
        pytest.skip(str(error))
    theirs = cupy.asarray(np.arange(6.0, dtype="float32"))
    tensor = torch.asarray(theirs)
    assert tensor.data_ptr() == theirs.data.ptr
    assert cupy.asarray(tensor).data.ptr == theirs.data.ptr
    np.testing.assert_array_equal(to_numpy(tensor), np.arange(6))
