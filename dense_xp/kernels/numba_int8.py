"""Few rows times 8-bit weights, for prediction.

The time of such a product is that of reading the weights. So they are read as they are, a quarter of the bytes of
float32, in the order of memory: some inputs at a time, while the sums of all units stay in the cache. Threads share
pieces, cut by the shape alone, whose sums are added in order: the bits are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from dense_xp.kernels.numba_team import COUNTERS, Team, add, closed, entered, left, look, opened, pause, pointer
from dense_xp.kernels.numpy import Array

PIECE = 1 << 21
"""Weights in a piece: 0.15 ms of work."""

# a product and the addition that follows it may be one instruction, which rounds once (FMA)
_compiled: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


@_compiled  # type: ignore[untyped-decorator]
def _one_row(x: Array, Q: Array, z: Array) -> None:
    kind, eights = z.dtype.type, Q.shape[0] // 8 * 8
    for i in range(0, eights, 8):
        x0, x1, x2, x3, x4, x5, x6, x7 = x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7]
        q0, q1, q2, q3, q4, q5, q6, q7 = Q[i], Q[i + 1], Q[i + 2], Q[i + 3], Q[i + 4], Q[i + 5], Q[i + 6], Q[i + 7]
        for j in range(z.size):
            s = z[j] + x0 * kind(q0[j]) + x1 * kind(q1[j]) + x2 * kind(q2[j]) + x3 * kind(q3[j])
            z[j] = s + x4 * kind(q4[j]) + x5 * kind(q5[j]) + x6 * kind(q6[j]) + x7 * kind(q7[j])
    for i in range(eights, Q.shape[0]):
        q, x0 = Q[i], x[i]
        for j in range(z.size):
            z[j] += x0 * kind(q[j])


@_compiled  # type: ignore[untyped-decorator]
def _four_rows(a: Array, b: Array, c: Array, d: Array, Q: Array, Z: Array) -> None:
    kind, fours = Z.dtype.type, Q.shape[0] // 4 * 4
    z0, z1, z2, z3 = Z[0], Z[1], Z[2], Z[3]
    for i in range(0, fours, 4):
        q0, q1, q2, q3 = Q[i], Q[i + 1], Q[i + 2], Q[i + 3]
        a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
        b0, b1, b2, b3 = b[i], b[i + 1], b[i + 2], b[i + 3]
        c0, c1, c2, c3 = c[i], c[i + 1], c[i + 2], c[i + 3]
        d0, d1, d2, d3 = d[i], d[i + 1], d[i + 2], d[i + 3]
        for j in range(z0.size):
            w0, w1, w2, w3 = kind(q0[j]), kind(q1[j]), kind(q2[j]), kind(q3[j])
            z0[j] = z0[j] + a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
            z1[j] = z1[j] + b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
            z2[j] = z2[j] + c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
            z3[j] = z3[j] + d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
    _one_row(a[fours:], Q[fours:], z0)
    _one_row(b[fours:], Q[fours:], z1)
    _one_row(c[fours:], Q[fours:], z2)
    _one_row(d[fours:], Q[fours:], z3)


# ------------------------------------------------------------------ pieces
#
# A job is an array of integers: addresses, and lengths in numbers.
#   0 X   1 Q   2 sums, of each piece those of all rows   3 rows   4 inputs   5 units   6 inputs of a piece   7 pieces
#   8 bytes of a number


@_compiled  # type: ignore[untyped-decorator]
def _piece(kind: Any, job: Array, i: int) -> None:
    n, n_in, units = job[3], job[4], job[5]
    first = i * job[6]
    last = min(first + job[6], n_in)
    X = carray(pointer(kind, job[0]), (n, n_in))[:, first:last]
    Q = carray(pointer(np.int8(0), job[1]), (n_in, units))[first:last]
    Z = carray(pointer(kind, job[2]), (job[7], n, units))[i]
    Z[:] = 0
    fours = n // 4 * 4
    for r in range(0, fours, 4):
        _four_rows(X[r], X[r + 1], X[r + 2], X[r + 3], Q, Z[r : r + 4])
    for r in range(fours, n):
        _one_row(X[r], Q, Z[r])


@_compiled  # type: ignore[untyped-decorator]
def _alone(kind: Any, job: Array) -> None:
    for i in range(job[7]):
        _piece(kind, job, i)


@_compiled  # type: ignore[untyped-decorator]
def _work(kind: Any, job: Array, memory: int, me: int) -> None:
    """Take pieces of an open call until there are no more; the caller then waits for the other threads."""
    pieces, taken, done = job[7], memory + 8 * COUNTERS, memory + 8 * COUNTERS + 64
    while True:
        i = add(taken, 1)
        if i >= pieces:
            break
        _piece(kind, job, i)
        add(done, 1)
    while me == 0 and look(done) < pieces:
        pause()


@_compiled  # type: ignore[untyped-decorator]
def _together(kind: Any, job: Array, memory: int, wanted: int) -> None:
    counters = carray(pointer(np.int64(0), memory + 8 * COUNTERS), 16)
    counters[:] = 0
    opened(memory, wanted)
    _work(kind, job, memory, 0)
    closed(memory)


@_compiled  # type: ignore[untyped-decorator]
def _serve(single: Any, double: Any, memory: int, job: Array, me: int) -> None:
    seen = 0
    while True:
        seen = entered(memory, me, seen)
        if not seen:
            return
        if job[8] == 4:
            _work(single, job, memory, me)
        else:
            _work(double, job, memory, me)
        left(memory)


_TEAM = Team(lambda memory, job, me: _serve(np.float32(0), np.float64(0), memory, job, me), 9)


def int8_product(X: Array, Q: Array, out: Array) -> None:
    """Write X Q, where X has few rows, and Q is int8."""
    X, Q = np.ascontiguousarray(X), np.ascontiguousarray(Q)
    n_in, units = Q.shape
    size = -(-n_in // -(-Q.size // PIECE))
    pieces = -(-n_in // size)
    sums = np.empty((pieces, *out.shape), dtype=out.dtype)
    addresses = X.ctypes.data, Q.ctypes.data, sums.ctypes.data
    job = np.asarray([*addresses, len(X), n_in, units, size, pieces, X.itemsize], dtype=np.int64)
    kind = out.dtype.type(0)
    others = _TEAM.take(pieces - 1)
    if others:
        try:
            _TEAM.job[:] = job
            _together(kind, _TEAM.job, _TEAM.memory, others)
        finally:
            _TEAM.give_back()
    else:
        _alone(kind, job)
    np.sum(sums, axis=0, out=out)
