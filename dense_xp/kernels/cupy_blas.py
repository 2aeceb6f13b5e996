"""Matrix products of CuPy's arrays by direct calls of cuBLAS, which can be recorded.

CuPy refuses every call of cuBLAS while a stream is recorded [1]_. cuBLAS itself does not, if it need not allocate
memory [2]_: so each stream has a handle of its own, and each handle a workspace of its own, which also makes results
reproducible. The functions are called as the header declares them [3]_, in the library that CuPy has loaded or would
load.

References
----------
.. [1] CuPy, "Improve stream capture support", https://github.com/cupy/cupy/issues/6290
.. [2] NVIDIA, cuBLAS documentation, "CUDA Graphs Support" and "cublasSetWorkspace()",
   https://docs.nvidia.com/cuda/cublas/
.. [3] NVIDIA, ``cublas_api.h`` and ``library_types.h`` of CUDA 13.0; the functions that count in 64 bits are there
   since CUDA 12.0
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import weakref
from collections.abc import Iterator
from ctypes import c_int, c_int64, c_size_t, c_void_p
from typing import Any, TypeAlias

import cupy
import numpy as np

Array: TypeAlias = Any

WORKSPACE = 32 << 20
"""Bytes: what NVIDIA recommends for Hopper, and more than older devices ask for."""

PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (c_void_p,),
    "cublasDestroy_v2": (c_void_p,),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    "cublasGemmEx_64": (
        c_void_p, c_int, c_int, c_int64, c_int64, c_int64,  # handle, how A and B are read, m, n, k
        c_void_p, c_void_p, c_int, c_int64, c_void_p, c_int, c_int64,  # alpha; A and B, each with type and step
        c_void_p, c_void_p, c_int, c_int64, c_int, c_int,  # beta; C; compute type, algorithm
    ),
}  # fmt: skip
"""The parameters of the functions that are called; each returns a status."""

DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
"""cudaDataType_t: CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF."""

COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
AS_IT_IS, TRANSPOSED = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
DEFAULT_ALGORITHM = -1

_FACTORS = {name: (np.ones(1, name), np.zeros(1, name)) for name in ("float32", "float64")}
POINTERS = {name: tuple(factor.ctypes.data for factor in pair) for name, pair in _FACTORS.items()}
"""The addresses of one and zero, in the type of the sums."""


@functools.cache
def library() -> Any:
    """Return cuBLAS, searched as CuPy does: in this process, in Python's packages, in conda, in CUDA."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return typed(ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path), PROTOTYPES, "cublasGetStatusString")


class StatusError(RuntimeError):
    """The status with which a function failed, in words and as a number."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


def typed(found: Any, prototypes: dict[str, tuple[Any, ...]], says: str) -> Any:
    """Return a library with typed functions, which raise if they fail; the function `says` puts a status into words."""
    words = getattr(found, says)
    words.restype = ctypes.c_char_p

    def check(status: int, function: Any, arguments: Any) -> None:
        if status:
            raise StatusError(f"{function.__name__}: {words(status).decode()}", status)

    for name, parameters in prototypes.items():
        function = getattr(found, name)
        function.argtypes, function.errcheck = parameters, check
    return found


class Handle:
    """cuBLAS on one stream, with the memory that it works in.

    Attributes
    ----------
    pointer : int
        The handle of cuBLAS.
    stream : int
        The handle of its stream.
    workspace : MemoryPointer
        Its memory, :data:`WORKSPACE` bytes.
    """

    def __init__(self, stream: int) -> None:
        # from the driver, and not from a pool: it may outlive the pool in use now
        self.workspace = cupy.cuda.MemoryPointer(cupy.cuda.Memory(WORKSPACE), 0)
        cublas, pointer = library(), c_void_p()
        cublas.cublasCreate_v2(ctypes.byref(pointer))
        self.pointer, self.stream = int(pointer.value or 0), stream
        weakref.finalize(self, _destroy, cupy.cuda.Device(), self.pointer).atexit = False
        cublas.cublasSetStream_v2(pointer, stream)  # in this order: setting the stream resets the workspace
        cublas.cublasSetWorkspace_v2(pointer, self.workspace.ptr, WORKSPACE)


def _destroy(device: Any, pointer: int) -> None:
    with device:  # it waits for the current device, which must be its own
        library().cublasDestroy_v2(pointer)


_of_this_thread = threading.local()


def handle() -> Handle:
    """Return the handle that this thread uses: that of :func:`using`, or one for the current stream."""
    own: dict[Any, Any] = _of_this_thread.__dict__
    if (chosen := own.get("chosen")) is not None:
        assert isinstance(chosen, Handle)
        return chosen
    key = f"{cupy.cuda.runtime.getDevice()} {(stream := cupy.cuda.get_current_stream().ptr)}"
    found: Handle = own.get(key) or own.setdefault(key, Handle(stream))
    return found


@contextlib.contextmanager
def using(chosen: Handle) -> Iterator[None]:
    """Compute products with this handle, as a recording does, whose graph keeps the handle."""
    _of_this_thread.chosen = chosen
    try:
        yield
    finally:
        del _of_this_thread.chosen


def product(A: Array, B: Array, out: Array) -> None:
    """Write A B into an array whose rows are contiguous; the factors may have any strides."""
    name = out.dtype.name
    kind = DATA_TYPES[name]
    one, zero = POINTERS["float64" if name == "float64" else "float32"]
    (A, *a), (B, *b), (_, _, step) = operand(A), operand(B), operand(out)
    # cuBLAS is column-major, and so reads the transposes: (A B)ᵀ = Bᵀ Aᵀ
    library().cublasGemmEx_64(
        handle().pointer, b[0], a[0], B.shape[1], A.shape[0], A.shape[1], one, B.data.ptr, kind, b[1], A.data.ptr, kind,
        a[1], zero, out.data.ptr, kind, step, compute_type(name), DEFAULT_ALGORITHM,
    )  # fmt: skip


def operand(A: Array) -> tuple[Array, int, int]:
    """Return an array, whether cuBLAS has to transpose it, and its leading dimension.

    An array that cuBLAS cannot read (reversed, broadcast, every other column) is copied.
    """
    (rows, columns), (down, along), size = A.shape, A.strides, A.itemsize
    for how, length, count, near, far in (
        (AS_IT_IS, columns, rows, along, down),
        (TRANSPOSED, rows, columns, down, along),
    ):
        far = far if count > 1 else length * size
        if (near == size or length == 1) and far % size == 0 and far >= length * size:
            return A, how, max(far // size, 1)
    return operand(cupy.ascontiguousarray(A))


def tf32() -> bool:
    """Whether products of float32 may round their factors to TF32: CuPy's own answer, read once and then kept."""
    core = cupy._core
    return bool(core.get_compute_type(np.float32) == core._routines_linalg.COMPUTE_TYPE_TF32)


def compute_type(name: str) -> int:
    """Return the type in which cuBLAS sums products of a dtype."""
    if name == "float64":
        return COMPUTE_64F
    return COMPUTE_32F_FAST_TF32 if name == "float32" and tf32() else COMPUTE_32F
