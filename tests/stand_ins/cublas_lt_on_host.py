"""What of cuBLASLt is used, played on the host: matrices stored by columns, descriptors, epilogues and their rules.

The rules are those of ``cublasLt.h`` of CUDA 13 and of the cuBLAS documentation, "Using the cuBLASLt API": an attribute
has one size; a bias is one number for each row of the result; the step of a ReLU's mask, in bits, is a multiple of 128
and at least the number of rows; an algorithm was found for one operation, and memory is aligned as was promised then.
Which bit of a byte stands for which number the documentation leaves open, and nothing here depends on it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tests.stand_ins.cuda_on_host import Cublas, Memory, cublas, current, launch

INVALID_VALUE, NOT_SUPPORTED = 7, 15
SIZES = {3: 4, 4: 4, 7: 4, 8: 8, 11: 8, 12: 8}
"""Of the attributes of an operation: how A and B are read, epilogue, bias, mask, the mask's step."""

BIAS, RELU_AUX_BIAS, DRELU_BGRAD, BGRADA = 4, 2 | 128 | 4, 8 | 128 | 16, 256
FLOAT32 = np.dtype("float32")


class CublasLt(Cublas):
    """Its functions take what C makes of their arguments; what it refuses is an error with a status.

    Attributes
    ----------
    without : set of int
        Epilogues for which there is no algorithm.
    launched : list of int
        The epilogues of the products that were launched.
    things : dict
        What was created and not yet destroyed, by its address.
    """

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.error = error
        self.things: dict[int, Any] = {}
        self.without: set[int] = set()
        self.launched: list[int] = []
        self.asked = 0

    def refuse(self, what: str, status: int = INVALID_VALUE) -> None:
        raise self.error(what, status)

    def _made(self, place: Any, thing: Any) -> None:
        self.made += 1
        self.things[self.made] = thing
        place._obj.value = self.made

    def cublasLtMatmulDescCreate(self, place: Any, compute: int, scale: int) -> None:
        assert (compute, scale) in ((68, 0), (77, 0)), "sums in float32"
        self._made(place, {"compute": compute, 3: 0, 4: 0, 7: 1})

    def cublasLtMatmulDescSetAttribute(self, operation: int, attribute: int, value: Any, size: int) -> None:
        if SIZES[attribute] != size or ctypes.sizeof(value._obj) != size:
            self.refuse(f"attribute {attribute} has {SIZES[attribute]} bytes")
        self.things[operation][attribute] = value._obj.value

    def cublasLtMatrixLayoutCreate(self, place: Any, kind: int, rows: int, columns: int, step: int) -> None:
        assert min(rows, columns) > 0
        if step < rows:
            self.refuse("columns overlap")
        self._made(place, (kind, rows, columns, step))

    def cublasLtMatmulPreferenceCreate(self, place: Any) -> None:
        self._made(place, {1: 0, **dict.fromkeys((5, 6, 7, 8), 256)})

    def cublasLtMatmulPreferenceSetAttribute(self, preference: int, attribute: int, value: Any, size: int) -> None:
        if size != (8 if attribute == 1 else 4) or ctypes.sizeof(value._obj) != size:
            self.refuse(f"attribute {attribute}")
        self.things[preference][attribute] = value._obj.value

    def _destroyed(self, thing: int) -> None:
        del self.things[thing]

    cublasLtMatmulDescDestroy = cublasLtMatrixLayoutDestroy = cublasLtMatmulPreferenceDestroy = _destroyed

    def _checked(self, operation: int, *layouts: int) -> tuple[int, ...]:
        """Return what an algorithm is for, or refuse what does not fit together."""
        own, (a, b, c, d) = self.things[operation], [self.things[layout] for layout in layouts]
        assert c == d
        m, k = a[1:3] if not own[3] else a[2:0:-1]
        k_b, n = b[1:3] if not own[4] else b[2:0:-1]
        if (m, n, k) != (*d[1:3], k_b):
            self.refuse("the shapes do not fit")
        if {a[0], b[0], d[0]} != {0} or own[7] in self.without:
            self.refuse("there is no algorithm", NOT_SUPPORTED)
        assert own[7] in (BIAS, RELU_AUX_BIAS, DRELU_BGRAD, BGRADA)
        if own[7] & 128 and (own.get(12, 0) % 128 or own.get(12, 0) < m or not own.get(11)):
            self.refuse("the step of the mask")
        if not own.get(8):
            self.refuse("no vector")
        vectors = [own[at] & -own[at] for at in (8, 11) if own.get(at)]
        assert min(vectors) >= 16, "vectors of their kernels start at 16 bytes"
        return m, n, k, own[3], own[4], own[7], own["compute"], a[3], b[3], d[3]

    def cublasLtMatmulAlgoGetHeuristic(
        self, handle: int, operation: int, a: int, b: int, c: int, d: int, preference: int, wanted: int, results: Any,
        count: Any,
    ) -> None:  # fmt: skip
        assert handle in cublas.handles, "a handle of cuBLAS serves here too"
        assert wanted == 1
        found, limits = results._obj, self.things[preference]
        self.asked += 1
        stamp = hash(self._checked(operation, a, b, c, d)) & 0xFFFF_FFFF
        found.algo[0], found.algo[1], found.state = stamp, limits[1], 0
        for i, at in enumerate((5, 6, 7, 8)):
            found.algo[2 + i] = limits[at]
        count._obj.value = 1

    def cublasLtMatmul(
        self, handle: int, operation: int, alpha: int, A: int, a: int, B: int, b: int, beta: int, C: int, c: int,
        D: int, d: int, algorithm: Any, workspace: int, size: int, stream: int,
    ) -> None:  # fmt: skip
        fits = self._checked(operation, a, b, c, d)
        stamp, needs, *aligned = list(algorithm._obj)[:6]
        assert stamp == hash(fits) & 0xFFFF_FFFF, "the algorithm is for another operation"
        assert not any(p % promised for p, promised in zip((A, B, C, D), aligned, strict=True)), "it is not aligned"
        assert stream == cublas.handles[handle]["stream"] == current().ptr, "the handle is of another stream"
        memory = cublas.handles[handle]["workspace"]
        assert Memory.at(workspace) is memory
        assert size >= needs
        assert C == D
        for pointer, value in ((alpha, 1.0), (beta, 0.0)):
            assert self.columns(pointer, 1, 1, 1, FLOAT32)[0, 0] == value
        own, (m, n, *_) = dict(self.things[operation]), fits
        kind = own[7]
        left, right = (self.columns(p, *self.things[of][1:], FLOAT32) for p, of in ((A, a), (B, b)))
        left, right = left.T if own[3] else left, right.T if own[4] else right
        result, vector = self.columns(D, m, n, self.things[d][3], FLOAT32), self.columns(own[8], m, 1, m, FLOAT32)
        bits = self._bits(own, n) if kind & 128 else None

        def work() -> None:
            value, sums = left @ right, None
            if kind in (BIAS, RELU_AUX_BIAS):
                value = value + vector
            if kind == RELU_AUX_BIAS:
                positive = np.zeros((n, 8 * bits.shape[1]), bool)
                positive[:, :m] = (value > 0.0).T
                bits[...] = np.packbits(positive, axis=1)
                value = np.maximum(value, 0.0)
            elif kind == DRELU_BGRAD:
                value = np.where(np.unpackbits(bits, axis=1)[:, :m].T, value, 0.0)
                sums = value.sum(axis=1, dtype=FLOAT32)
            elif kind == BGRADA:
                sums = left.sum(axis=1, dtype=FLOAT32)
            if sums is not None:
                vector[:, 0] = sums
            result[...] = value

        gradient = kind in (DRELU_BGRAD, BGRADA)
        mask = [Memory.at(own[11])] if kind & 128 else []
        beside = [Memory.at(own[8])]
        reads = [Memory.at(A), Memory.at(B), memory, *([] if gradient else beside), *(mask if gradient else [])]
        writes = [Memory.at(D), memory, *(beside if gradient else mask)]
        self.launched.append(kind)
        launch(reads, writes, work)

    @staticmethod
    def _bits(own: dict[Any, Any], columns: int) -> Any:
        """Return the bytes of a mask, those of one column in a row."""
        size = own[12] // 8
        assert Memory.at(own[11]).store.size >= size * columns
        return np.frombuffer((ctypes.c_char * (size * columns)).from_address(own[11]), np.uint8).reshape(columns, size)
