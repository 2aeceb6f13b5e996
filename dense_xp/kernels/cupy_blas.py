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

import os
import threading
import weakref
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
    """Return the handle of the stream that is current now."""
    handles: dict[Any, Handle] = _of_this_thread.__dict__
    key = f"{cupy.cuda.runtime.getDevice()} {(stream := cupy.cuda.get_current_stream().ptr)}"
    if key not in handles:
        handles[key] = Handle(stream)
    return handles[key]


def product(A: Array, B: Array, out: Array) -> None:
    """Write A B into an array whose rows are contiguous; either factor may be transposed."""
    (rows, inner), columns = A.shape, B.shape[1]
    name = out.dtype.name
    kind = _DATA_TYPES[name]
    one, zero = _POINTERS["float64" if name == "float64" else "float32"]
    a, b = _operand(A), _operand(B)
    # cuBLAS stores columns: what it takes for the transposes is (A B)ᵀ = Bᵀ Aᵀ
    cublas.gemm_ex(
        handle().pointer, b[0], a[0], columns, rows, inner, one, B.data.ptr, kind, b[1], A.data.ptr, kind, a[1],
        zero, out.data.ptr, kind, _operand(out)[1], _compute_type(name), _DEFAULT_ALGORITHM,
    )  # fmt: skip


def _operand(A: Array) -> tuple[int, int]:
    """Return whether cuBLAS has to transpose an array, and the distance of its rows or columns, in numbers."""
    (rows, columns), (down, along), size = A.shape, A.strides, A.itemsize
    if along == size or columns == 1:
        return _AS_IT_IS, max(down // size, columns)
    if down == size or rows == 1:
        return _TRANSPOSED, max(along // size, rows)
    raise ValueError(f"neither the rows nor the columns of an array with strides {A.strides} are contiguous")


def _compute_type(name: str) -> int:
    if name == "float64":
        return int(cublas.ComputeType.COMPUTE_64F)
    if name == "float32" and os.environ.get("CUPY_TF32") == "1":  # the setting that CuPy's own products follow
        return int(cublas.ComputeType.COMPUTE_32F_FAST_TF32)
    return int(cublas.ComputeType.COMPUTE_32F)
