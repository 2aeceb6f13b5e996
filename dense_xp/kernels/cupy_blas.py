"""Matrix products of CuPy's arrays, asked of cuBLAS without CuPy in between: those can be recorded.

CuPy refuses every call of cuBLAS while a stream is recorded [1]_. cuBLAS itself does not, if it need not ask for
memory meanwhile [2]_: so it has a handle of its own for each stream, and each handle has a workspace of its own, which
also makes its results the same each time. The bindings are NVIDIA's, from nvmath-python.

References
----------
.. [1] CuPy, "Improve stream capture support", https://github.com/cupy/cupy/issues/6290
.. [2] NVIDIA, cuBLAS documentation, "CUDA Graphs Support" and "cublasSetWorkspace()",
   https://docs.nvidia.com/cuda/cublas/
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any, TypeAlias

import cupy
import numpy as np
from nvmath.bindings import cublas

Array: TypeAlias = Any

WORKSPACE = 32 << 20
"""Bytes: what NVIDIA recommends for Hopper, and more than older devices ask for."""

# the numbers of cudaDataType_t
_DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_TRANSPOSED, _AS_IT_IS, _DEFAULT_ALGORITHM = 1, 0, -1

_FACTORS = {name: (np.ones(1, name), np.zeros(1, name)) for name in ("float32", "float64")}
_POINTERS = {name: tuple(factor.ctypes.data for factor in pair) for name, pair in _FACTORS.items()}


class Handle:
    """cuBLAS on one stream, with the memory that it works in.

    Attributes
    ----------
    pointer : int
        What cuBLAS calls it.
    """

    def __init__(self, stream: int) -> None:
        # from the driver, and not from a pool: it outlives whatever pool is in use now
        self.workspace = cupy.cuda.MemoryPointer(cupy.cuda.Memory(WORKSPACE), 0)
        self.pointer = cublas.create()
        weakref.finalize(self, cublas.destroy, self.pointer).atexit = False
        cublas.set_stream(self.pointer, stream)  # in this order: a new stream takes the workspace back
        cublas.set_workspace(self.pointer, self.workspace.ptr, WORKSPACE)


_of_this_thread = threading.local()


def handle() -> Handle:
    """Return the handle that this thread uses: that of :func:`using`, or one for the stream that is current now."""
    own: dict[Any, Any] = _of_this_thread.__dict__
    if (chosen := own.get("chosen")) is not None:
        assert isinstance(chosen, Handle)
        return chosen
    key = f"{cupy.cuda.runtime.getDevice()} {(stream := cupy.cuda.get_current_stream().ptr)}"
    found: Handle = own.get(key) or own.setdefault(key, Handle(stream))
    return found


@contextlib.contextmanager
def using(chosen: Handle) -> Iterator[None]:
    """Take products with a handle of one's own, as a recording does whose graph outlives it."""
    _of_this_thread.chosen = chosen
    try:
        yield
    finally:
        del _of_this_thread.chosen


def product(A: Array, B: Array, out: Array) -> None:
    """Write A B into an array whose rows are contiguous; the factors may lie in memory as they like."""
    name = out.dtype.name
    kind = _DATA_TYPES[name]
    one, zero = _POINTERS["float64" if name == "float64" else "float32"]
    (A, *a), (B, *b), (_, _, step) = _operand(A), _operand(B), _operand(out)
    # cuBLAS stores columns: what it takes for the transposes is (A B)ᵀ = Bᵀ Aᵀ
    cublas.gemm_ex(
        handle().pointer, b[0], a[0], B.shape[1], A.shape[0], A.shape[1], one, B.data.ptr, kind, b[1], A.data.ptr, kind,
        a[1], zero, out.data.ptr, kind, step, _compute_type(name), _DEFAULT_ALGORITHM,
    )  # fmt: skip


def _operand(A: Array) -> tuple[Array, int, int]:
    """Return an array, whether cuBLAS has to transpose it, and the distance of its rows or columns, in numbers.

    Of an array that cuBLAS cannot read (reversed, broadcast, every other column) it is a contiguous copy.
    """
    (rows, columns), (down, along), size = A.shape, A.strides, A.itemsize
    for how, length, count, near, far in (
        (_AS_IT_IS, columns, rows, along, down),
        (_TRANSPOSED, rows, columns, down, along),
    ):
        far = far if count > 1 else length * size
        if (near == size or length == 1) and far % size == 0 and far >= length * size:
            return A, how, max(far // size, 1)
    return _operand(cupy.ascontiguousarray(A))


def _compute_type(name: str) -> int:
    if name == "float64":
        return int(cublas.ComputeType.COMPUTE_64F)
    core = cupy._core  # CuPy reads CUPY_TF32 once, and stays with that; so do these products
    if name == "float32" and core.get_compute_type(np.float32) == core._routines_linalg.COMPUTE_TYPE_TF32:
        return int(cublas.ComputeType.COMPUTE_32F_FAST_TF32)
    return int(cublas.ComputeType.COMPUTE_32F)
