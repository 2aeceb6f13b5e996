"""Matrix products with epilogues, work on the result before it is written: by cuBLASLt, for CuPy's arrays.

An epilogue saves a launch and a pass over memory: for the bias and the ReLU, and in the backward pass for the
derivative of that ReLU and the sums of the bias's gradient [1]_. Where cuBLASLt has no algorithm, each function here
does nothing and returns False; the product and the kernels then do the same.

cuBLASLt is column-major: it reads the transposes of our matrices. One number for each of our columns is one for each of
its rows, which is the form of its bias.

References
----------
.. [1] NVIDIA, cuBLAS documentation, "cublasLtEpilogue_t", "cublasLtMatmulDescAttributes_t" and "cublasLtMatmul()",
   https://docs.nvidia.com/cuda/cublas/; ``cublasLt.h`` of CUDA 13
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from ctypes import c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, TypeAlias

import cupy

from dense_xp.kernels import cupy_blas

Array: TypeAlias = Any

PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cublasLtMatmulDescCreate": (c_void_p, c_int, c_int),  # place of the result, compute type, type of the factors
    "cublasLtMatmulDescSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatmulDescDestroy": (c_void_p,),
    "cublasLtMatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),  # type, rows, columns, step
    "cublasLtMatrixLayoutDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceCreate": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    "cublasLtMatmulAlgoGetHeuristic": (
        c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p,  # handle, operation; layouts of A, B, C, D
        c_void_p, c_int, c_void_p, c_void_p,  # preference, how many are wanted, results, how many there are
    ),
    "cublasLtMatmul": (
        c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p,  # handle, operation, alpha; A; B
        c_void_p, c_void_p, c_void_p, c_void_p, c_void_p,  # beta; C; D, each with its layout
        c_void_p, c_void_p, c_size_t, c_void_p,  # algorithm, workspace and its size, stream
    ),
}  # fmt: skip
"""The parameters of the functions that are called; each returns a status."""

TRANSA, TRANSB, EPILOGUE, BIAS_POINTER, AUX_POINTER, AUX_LD = 3, 4, 7, 8, 11, 12
"""CUBLASLT_MATMUL_DESC_..."""

MAX_WORKSPACE_BYTES, MIN_ALIGNMENT = 1, (5, 6, 7, 8)
"""CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, and MIN_ALIGNMENT_A_BYTES to D."""

BIAS, RELU_AUX_BIAS, DRELU_BGRAD, BGRADA = 4, 134, 152, 256
"""CUBLASLT_EPILOGUE_..."""

NOT_SUPPORTED = 15
"""CUBLAS_STATUS_NOT_SUPPORTED."""

BITS = 128
"""The leading dimension of a mask is a multiple of so many bits."""

ALIGNED = 16
"""Bytes: vectors and masks that start elsewhere are left to the kernels."""


class Result(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm, and whether it is valid."""

    _fields_ = [
        ("algo", c_uint64 * 8),
        ("workspaceSize", c_size_t),
        ("state", c_int),
        ("wavesCount", c_float),
        ("reserved", c_int * 4),
    ]


@functools.cache
def library() -> Any:
    """Return cuBLASLt, which is installed with cuBLAS and loaded with it."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    found = ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
    return cupy_blas.typed(found, PROTOTYPES, "cublasLtGetStatusString")


class Plan:
    """A product with its epilogue, for one shape: the descriptors, and the algorithm for them.

    Attributes
    ----------
    found : bool
        Whether cuBLASLt has an algorithm for it.
    """

    def __init__(self, epilogue: int, compute: int, A: _Side, B: _Side, D: _Side, own: tuple[Any, Any]) -> None:
        self._made: list[tuple[str, int]] = []
        weakref.finalize(self, _destroy, self._made).atexit = False
        kind = cupy_blas.DATA_TYPES["float32"]
        self.operation = self._create("MatmulDesc", compute, kind)
        self.layouts = [self._create("MatrixLayout", kind, *side.shape, side.step) for side in (A, B, D)]
        numbers = {TRANSA: c_int32(A.how), TRANSB: c_int32(B.how), EPILOGUE: c_uint32(epilogue)}
        for attribute, number in numbers.items():
            self._set(attribute, number)
        self.point(*own)
        preference = self._create("MatmulPreference")
        limits: dict[int, Any] = {MAX_WORKSPACE_BYTES: c_uint64(cupy_blas.WORKSPACE)}
        limits |= {at: c_uint32(side.aligned) for at, side in zip(MIN_ALIGNMENT, (A, B, D, D), strict=True)}
        for attribute, limit in limits.items():
            size = ctypes.sizeof(limit)
            library().cublasLtMatmulPreferenceSetAttribute(preference, attribute, ctypes.byref(limit), size)
        self.result, count = Result(), c_int(0)
        a, b, d = self.layouts
        try:
            library().cublasLtMatmulAlgoGetHeuristic(
                cupy_blas.handle().pointer, self.operation, a, b, d, d, preference, 1, ctypes.byref(self.result),
                ctypes.byref(count),
            )  # fmt: skip
        except cupy_blas.StatusError as error:
            if error.status != NOT_SUPPORTED:
                raise
            count.value = 0
        self.found = bool(count.value) and self.result.state == 0

    def _create(self, kind: str, *arguments: int) -> int:
        pointer = c_void_p()
        getattr(library(), f"cublasLt{kind}Create")(ctypes.byref(pointer), *arguments)
        assert pointer.value is not None
        self._made.append((kind, pointer.value))
        return pointer.value

    def _set(self, attribute: int, number: Any) -> None:
        size = ctypes.sizeof(number)
        library().cublasLtMatmulDescSetAttribute(self.operation, attribute, ctypes.byref(number), size)

    def point(self, vector: Array, mask: Array | None) -> None:
        """Set the arrays of the epilogue: the bias or the sums of its gradient, and the mask."""
        self._set(BIAS_POINTER, c_void_p(vector.data.ptr))
        if mask is not None:
            self._set(AUX_POINTER, c_void_p(mask.data.ptr))
            self._set(AUX_LD, c_int64(8 * mask.shape[1]))

    def launch(self, A: int, B: int, D: int) -> None:
        """Compute the product on the stream and in the workspace of the present handle."""
        own, (one, zero), (a, b, d) = cupy_blas.handle(), cupy_blas.POINTERS["float32"], self.layouts
        library().cublasLtMatmul(
            own.pointer, self.operation, one, A, a, B, b, zero, D, d, D, d, ctypes.byref(self.result.algo),
            own.workspace.ptr, cupy_blas.WORKSPACE, own.stream,
        )  # fmt: skip


def _destroy(made: list[tuple[str, int]]) -> None:
    for kind, pointer in made:
        getattr(library(), f"cublasLt{kind}Destroy")(pointer)


class _Side:
    """One matrix as cuBLASLt sees it: its transposition, stored shape, leading dimension and alignment."""

    def __init__(self, array: Array) -> None:
        self.array, self.how, self.step = cupy_blas.operand(array)
        rows, columns = self.array.shape
        self.shape = (columns, rows) if self.how == cupy_blas.AS_IT_IS else (rows, columns)
        self.pointer = self.array.data.ptr
        self.aligned = _alignment(self.pointer)
        self.key = self.how, self.shape, self.step, self.aligned


def _alignment(pointer: int) -> int:
    return min(256, pointer & -pointer)


_of_this_thread = threading.local()  # a plan holds pointers while it is launched


def _multiplied(epilogue: int, A: Array, B: Array, out: Array, vector: Array, mask: Array | None = None) -> bool:
    """Write A B with an epilogue, which reads or writes one number for each column, and perhaps a mask."""
    own = [vector] if mask is None else [vector, mask]
    if out.dtype.name != "float32" or any(array.data.ptr % ALIGNED for array in own):
        return False
    a, b, d = _Side(B), _Side(A), _Side(out)  # (A B)ᵀ = Bᵀ Aᵀ
    if d.how != cupy_blas.AS_IT_IS or d.array is not out:
        return False
    compute, plans = cupy_blas.compute_type("float32"), _of_this_thread.__dict__
    key = f"{cupy.cuda.runtime.getDevice()} {epilogue} {compute} {a.key} {b.key} {d.key} " + " ".join(
        str(_alignment(array.data.ptr)) for array in own
    )
    plan: Plan | None = plans.get(key)
    if plan is None:
        plan = plans[key] = Plan(epilogue, compute, a, b, d, (vector, mask))
    if plan.found:
        plan.point(vector, mask)
        plan.launch(a.pointer, b.pointer, d.pointer)
    return plan.found


# ------------------------------------------------------------------------------------- for layers


def new_mask(rows: int, columns: int) -> Array:
    """Return a mask: one bit for each number of an array of that shape."""
    return cupy.empty((rows, -(-columns // BITS) * BITS // 8), dtype=cupy.uint8)


def linear(X: Array, W: Array, bias: Array, out: Array) -> bool:
    """Write X W + b; False if nothing was done.

    Parameters
    ----------
    X : array, shape (m, k)
        In float32, like all others.
    W : array, shape (k, n)
        The weights.
    bias : array, shape (1, n)
        The bias.
    out : array, shape (m, n)
        With contiguous rows.
    """
    return _multiplied(BIAS, X, W, out, bias)


def relu(X: Array, W: Array, bias: Array, out: Array, mask: Array) -> bool:
    """Write the ReLU of X W + b, and a mask of where it is positive; False if nothing was done."""
    return _multiplied(RELU_AUX_BIAS, X, W, out, bias, mask)


def relu_backward(grad: Array, W: Array, mask: Array, out: Array, grad_bias: Array) -> bool:
    """Write G Wᵀ where a mask has ones and 0 elsewhere, and its sums over the rows; False if nothing was done.

    `W` are the weights of the layer whose gradient G is; mask and bias are those of the layer before.
    """
    return _multiplied(DRELU_BGRAD, grad, W.T, out, grad_bias, mask)


def weights_backward(X: Array, grad: Array, out: Array, grad_bias: Array) -> bool:
    """Write Xᵀ G, and the sums of G over its rows; False if nothing was done."""
    return _multiplied(BGRADA, X.T, grad, out, grad_bias)
