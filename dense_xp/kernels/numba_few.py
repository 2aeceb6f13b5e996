"""Dense layers and few rows: products that do not wait for BLAS, and a gradient that is used up at once.

With few rows, a layer is bound by how fast its weights and the optimizer's state come from memory. A gradient that is
written whole moves three times more; here a part of it is multiplied in the cache, and updates its weights from there.
And the threads of OpenBLAS keep their cores busy for an eighth of a second after a product, and no other loop can have
them. So all large products of such a step are computed here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types

from dense_xp.kernels.numba_registers import HEIGHTS, REGISTER, VECTORS, dots, multiply
from dense_xp.kernels.numba_team import (
    COUNTERS,
    Team,
    add,
    call,
    closed,
    entered,
    left,
    look,
    opened,
    pause,
    pointer,
    put,
)
from dense_xp.kernels.numba_updates import address_of, numbers_of
from dense_xp.kernels.numpy import Array, empty

FEWEST, FEW = 2, 64
"""The fewest and the most rows: for one there are simpler products, and for many BLAS is as fast."""

WIDE = 1 << 18
"""The fewest weights of the largest layer. BLAS is faster at smaller ones, and then it should have all products."""

LEAST, NARROW = 1 << 20, 64
"""The fewest multiplications, and the fewest inputs and units, that are shared here."""

ALONE = 1 << 18
"""The most multiplications that BLAS does without waking its threads."""

SHARE = 1 << 17
"""Numbers of W that are worth another thread, for up to 32 rows; with more rows, fewer."""

DEPTH = 64
"""Rows of a panel that meet all rows of X before the next ones: they stay in the nearest cache."""

BLOCK, TILE = 12 << 10, 1 << 16
"""Numbers of a gradient that are computed before they are used up, for the nearest cache; of W that meet all rows of a
gradient, for the second one."""

_compiled: Any = njit(cache=True, nogil=True, error_model="numpy")


# ------------------------------------------------------------------ calls
#
# A job is an array of integers: addresses, and lengths in numbers.
#   0 what is done   1 its pieces   2 columns or rows in a piece   3, 4 C functions for a piece and for its blocks
#   5 X or the gradient   6 distance of its rows   7 rows   8 W   9 its rows   10 its columns   11 output
# and to learn: 11 the gradient in panels   12, 13 state   14 the update as a C function   15 its constants
#
# What is called by its address is compiled once, and not into each caller.
_PRODUCT, _DOTS, _PACK, _LEARN = range(4)


def few_rows(rows: int, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return whether a step with so many rows, and weights of these shapes, should take the products of this file."""
    wide = [math.prod(shape) >= WIDE and min(shape) >= NARROW for shape in shapes]
    return FEWEST <= rows <= FEW and any(wide)


def few_product(A: Array, B: Array, out: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.product`, without threads of BLAS."""
    if _serves(A, B) and B.flags.forc:
        in_rows = B.flags.c_contiguous
        what, W, least = (_PRODUCT, B, VECTORS * REGISTER // B.itemsize) if in_rows else (_DOTS, B.T, VECTORS)
        _shared(what, out.shape[1], least, A, W, out.ctypes.data)
        return
    rows = ALONE // max(1, B.size)
    if len(A) <= rows or rows < HEIGHTS[0]:
        np.dot(A, B, out=out)
    else:
        for i in range(0, len(A), rows):
            np.matmul(A[i : i + rows], B, out=out[i : i + rows])


def _serves(X: Array, W: Array) -> bool:
    large = len(X) * W.size >= LEAST and min(W.shape) >= NARROW
    return large and len(X) <= FEW and _in_rows(X)


def _in_rows(X: Array) -> bool:
    """Whether rows lie one after the other, with or without gaps: not in reverse, and not in the same memory."""
    apart, next_to = X.strides
    return next_to == X.itemsize and apart >= X.shape[1] * next_to and apart % next_to == 0 and X.flags.aligned


def learn(
    X: Array, grad: Array, W: Array, state: Sequence[Array], kernel: Callable[..., None], constants: Sequence[float]
) -> bool:
    """Update W by the gradient Xᵀ `grad`, if there are so few rows that this is the faster way; return whether it is.

    Parameters
    ----------
    X : numpy.ndarray, shape (rows, n_in)
    grad : numpy.ndarray, shape (rows, units)
    W : numpy.ndarray, shape (n_in, units)
    state : sequence of numpy.ndarray, shape (n_in, units)
        What the kernel keeps for each weight.
    kernel : callable
        The update, one of :mod:`dense_xp.kernels.numba_updates`.
    constants : sequence of float
        Its further arguments.
    """
    if not (_serves(X, W) and _in_rows(grad)):
        return False
    numbers = numbers_of(kernel, constants)
    a, b = (*state, W, W)[:2]
    lanes = REGISTER // W.itemsize
    packed = empty((len(X) * -(-W.shape[1] // lanes) * lanes,), W.dtype, None)
    _shared(_PACK, W.shape[1], VECTORS * lanes, grad, W, packed.ctypes.data)
    of_update = a.ctypes.data, b.ctypes.data, address_of(kernel, W.dtype), numbers.ctypes.data
    _shared(_LEARN, len(W), HEIGHTS[0], X, W, packed.ctypes.data, *of_update)
    return True


def _shared(what: int, count: int, least: int, X: Array, W: Array, *others: int) -> None:
    """Do a job in pieces, each a multiple of `least` of a whole of `count`, on as many threads as it is worth."""
    piece, blocks = _piece_of(W.dtype), (_dots_of if what == _DOTS else _panel_of)(W.dtype)
    of_X, of_W = (X.ctypes.data, X.strides[0] // X.itemsize, len(X)), (W.ctypes.data, *W.shape)
    shares = W.size * max(32, len(X)) // (32 * SHARE)
    wanted = _TEAM.take(min(shares, -(-count // least)) - 1)
    try:
        each = -(-count // (least * (4 * wanted if wanted else 1))) * least
        numbers = what, -(-count // each), each, piece.address, blocks.address, *of_X, *of_W, *others
        if wanted:
            _TEAM.job[: len(numbers)] = numbers
            _together(_TEAM.job, _TEAM.memory, wanted)
        else:
            _alone(np.array(numbers))
    finally:
        if wanted:
            _TEAM.give_back()


@_compiled  # type: ignore[untyped-decorator]
def _alone(job: Array) -> None:
    for i in range(job[1]):
        call(job[3], (job.ctypes.data, i))


@_compiled  # type: ignore[untyped-decorator]
def _together(job: Array, memory: int, wanted: int) -> None:
    taken, done = memory + 8 * COUNTERS, memory + 8 * COUNTERS + 64
    put(taken, 0)
    put(done, 0)
    opened(memory, wanted)
    _work(job, memory)
    while look(done) < job[1]:
        pause()
    closed(memory)


@_compiled  # type: ignore[untyped-decorator]
def _work(job: Array, memory: int) -> None:
    while True:
        i = add(memory + 8 * COUNTERS, 1)
        if i >= job[1]:
            break
        call(job[3], (job.ctypes.data, i))
        add(memory + 8 * COUNTERS + 64, 1)


@_compiled  # type: ignore[untyped-decorator]
def _serve(memory: int, job: Array, me: int) -> None:
    seen = 0
    while True:
        seen = entered(memory, me, seen)
        if not seen:
            return
        _work(job, memory)
        left(memory)


_TEAM = Team(_serve, 16)


@functools.cache
def _piece_of(dtype: Any) -> Any:
    kind = dtype.type(0)

    @cfunc(types.void(types.int64, types.int64), cache=True)  # type: ignore[untyped-decorator]
    def piece(job: int, i: int) -> None:
        _piece(kind, carray(pointer(0, job), 16), i)

    return piece


@functools.cache
def _dots_of(dtype: Any) -> Any:
    kind = dtype.type(0)

    @cfunc(types.void(*[types.int64] * 9), cache=True)  # type: ignore[untyped-decorator]
    def block(A: int, lda: int, n: int, B: int, ldb: int, m: int, k: int, C: int, ldc: int) -> None:
        dots(kind, A, lda, n, B, ldb, m, k, C, ldc)

    return block


@functools.cache
def _panel_of(dtype: Any) -> Any:
    kind = dtype.type(0)

    @cfunc(types.void(*[types.int64] * 11), cache=True)  # type: ignore[untyped-decorator]
    def block(
        A: int, lda: int, n: int, B: int, ldb: int, vectors: int, k: int, C: int, ldc: int, start: int, step: int
    ) -> None:
        multiply(kind, vectors, A, lda, n, B, ldb, k, C, ldc, start, step, 0)

    return block


@_compiled  # type: ignore[untyped-decorator]
def _piece(kind: Any, job: Array, i: int) -> None:
    first, n, n_in, units = i * job[2], job[7], job[9], job[10]
    columns, rows = min(job[2], units - first), min(job[2], n_in - first)
    X, W = carray(pointer(kind, job[5]), (n, job[6])), carray(pointer(kind, job[8]), (n_in, units))
    if job[0] == _PRODUCT:
        _product(X, W, carray(pointer(kind, job[11]), (n, units)), first, columns, job[4])
    elif job[0] == _DOTS:
        _dots(X, W, job[11], first, rows, job[4])
    elif job[0] == _PACK:
        _pack(kind, X, job[11], first, columns)
    else:
        _learn(X, job, first, rows)


@_compiled  # type: ignore[untyped-decorator]
def _product(X: Array, W: Array, out: Array, first: int, columns: int, blocks: int) -> None:
    """Write some columns of X W, panel by panel."""
    k, (n, lda), size = W.shape[0], X.shape, W.itemsize
    lanes = REGISTER // size
    panel = VECTORS * lanes
    packed, sums = np.zeros((DEPTH, panel), W.dtype), np.empty((n, panel), W.dtype)
    B, C = packed.ctypes.data, sums.ctypes.data
    for at in range(first, first + columns, panel):
        width = min(panel, first + columns - at)
        vectors = (width + lanes - 1) // lanes
        sums[:] = 0
        for i in range(0, k, DEPTH):
            depth = min(DEPTH, k - i)
            for d in range(depth):
                _copy(W[i + d, at : at + width], packed[d])
            call(blocks, (X.ctypes.data + i * size, lda, n, B, panel, vectors, depth, C, panel, C, panel))
        for r in range(n):
            _copy(sums[r, :width], out[r, at:])


@_compiled  # type: ignore[untyped-decorator]
def _copy(here: Array, there: Array) -> None:
    for j in range(here.size):
        there[j] = here[j]


@_compiled  # type: ignore[untyped-decorator]
def _dots(grad: Array, W: Array, out: int, first: int, rows: int, blocks: int) -> None:
    """Write some columns of the product of a gradient with the transpose of W."""
    (n_in, units), (n, lda), size = W.shape, grad.shape, W.itemsize
    tile = max(1, TILE // units // VECTORS) * VECTORS
    for at in range(first, first + rows, tile):
        m, B = min(tile, first + rows - at), W.ctypes.data + at * units * size
        call(blocks, (grad.ctypes.data, lda, n, B, units, m, units, out + at * size, n_in))


@_compiled  # type: ignore[untyped-decorator]
def _pack(kind: Any, grad: Array, packed: int, left: int, columns: int) -> None:
    """Write panels of some columns, one row after the other, filled up with zeros to whole registers."""
    n, lanes = grad.shape[0], REGISTER // grad.itemsize
    for first in range(left, left + columns, VECTORS * lanes):
        width = min(VECTORS * lanes, left + columns - first)
        shape = n, (width + lanes - 1) // lanes * lanes
        out = carray(pointer(kind, packed + first * n * grad.itemsize), shape)
        for i in range(n):
            out[i] = 0
            _copy(grad[i, first : first + width], out[i])


@_compiled  # type: ignore[untyped-decorator]
def _learn(X: Array, job: Array, first: int, rows: int) -> None:
    """Update some rows of W, in blocks whose gradient does not leave the cache."""
    n, units, size = X.shape[0], job[10], X.itemsize
    lanes = REGISTER // size
    panel = VECTORS * lanes
    most = max(1, BLOCK // units // HEIGHTS[0]) * HEIGHTS[0]
    columns = np.empty((most, n), X.dtype)
    gradient, zeros = np.empty(most * units + lanes, X.dtype), np.zeros(panel, X.dtype)
    A, C, start = columns.ctypes.data, gradient.ctypes.data, zeros.ctypes.data
    for row in range(first, first + rows, most):
        height = min(most, first + rows - row)
        for i in range(n):
            x = X[i, row : row + height]
            for r in range(x.size):
                columns[r, i] = x[r]
        for at in range((units - 1) // panel * panel, -1, -panel):  # what comes to lie beyond a row is overwritten
            vectors = (min(panel, units - at) + lanes - 1) // lanes
            B, out = job[11] + at * n * size, C + at * size
            call(job[4], (A, n, height, B, vectors * lanes, vectors, n, out, units, start, 0))
        here = row * units * size
        call(job[14], (job[8] + here, C, job[12] + here, job[13] + here, height * units, job[15]))
