"""Dense layers for prediction: products with packed weights, bias and ReLU while the numbers are in registers.

A product of few rows is bound by how fast weights come from the cache, and BLAS packs them at every call. Here they are
packed once, as in Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (ACM TOMS 34, 2008):
panels of some columns, one row after the other, the bias above. A block of rows is multiplied with a panel in
registers: one number of X, repeated, times a row of the panel. Each output is summed in the order of its inputs, by FMA
where the processor has it, so its bits do not depend on the number of rows, tiles and threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, njit

from dense_xp.kernels.numba_registers import HEIGHTS, REGISTER, VECTORS, moved, multiply
from dense_xp.kernels.numba_team import (
    COUNTERS,
    MANY,
    WANTED,
    Team,
    add,
    closed,
    entered,
    left,
    look,
    opened,
    pause,
    pointer,
)
from dense_xp.kernels.numpy import Array, empty

CHUNK = 1024
"""Rows of a panel that are multiplied before the next block of X: they stay in the second-level cache."""

TILE = 96
"""Rows that pass through all layers together, where they are many: their outputs stay in the second-level cache."""

FEW, FEWEST = 48, 8
"""Up to FEW rows, threads share the panels of a layer and not the rows: then each reads a part of the weights. Up to
FEWEST rows, :meth:`Panels.now` reads the weights where they are."""

SHARE = 1 << 20
"""Multiplications that make it worth waking another thread."""

SMALL = 1 << 15
"""Up to so many weights, it is faster to check whether they have changed than to multiply them where they are."""

HEAD, PER_LAYER, LAYERS = 16, 6, 64
"""Numbers in a job before those of its layers, numbers for each layer, and the most layers."""

_compiled: Any = njit(cache=True, nogil=True, error_model="numpy")


# ------------------------------------------------------------------ layers in a row
#
# A job is an array of integers: addresses, and lengths in numbers.
#   0 X   1 its columns   2 rows   3 output   4 rows in a tile   5 layers   6 scratch   7 half of it, for one thread
#   8 bytes of a number   9 numbers in a register   10 whether threads share the panels
#   11 whether weights are read where they are   12 columns of a panel   13 counters of the team
# and of each layer: packed weights, inputs, units, whether it is rectified, weights and bias where they are.


@_compiled  # type: ignore[untyped-decorator]
def _panel(kind: Any, job: Array, layer: int, p: int, A: int, lda: int, n: int, C: int, ldc: int) -> None:
    """Multiply n rows with one panel of a layer."""
    at = HEAD + PER_LAYER * layer
    packed, k, units, rectified = job[at], job[at + 1], job[at + 2], job[at + 3]
    size, lanes = job[8], job[9]
    first = p * job[12]
    if job[11]:
        _in_place(kind, job, at, first, min(job[12], units - first), A, lda, n, C, ldc)
        return
    vectors = min(VECTORS, (units - first + lanes - 1) // lanes)
    bias, ldb = packed + first * (k + 1) * size, vectors * lanes
    B = bias + ldb * size
    C += first * size
    start, step, done = bias, 0, 0
    while done < k:
        part = min(CHUNK, k - done) if n > HEIGHTS[0] else k
        relu = rectified if done + part == k else 0
        multiply(kind, vectors, A + done * size, lda, n, B + done * ldb * size, ldb, part, C, ldc, start, step, relu)
        start, step, done = C, ldc, done + part


@_compiled  # type: ignore[untyped-decorator]
def _in_place(
    kind: Any, job: Array, at: int, first: int, columns: int, A: int, lda: int, n: int, C: int, ldc: int
) -> None:
    """Multiply n rows with some columns of weights that are not packed, with the same bits as by panels."""
    k, units, rectified = job[at + 1], job[at + 2], job[at + 3]
    W = carray(pointer(kind, job[at + 4]), (k, units))[:, first : first + columns]
    w0 = carray(pointer(kind, job[at + 5]), units)[first : first + columns]
    X, Z = carray(pointer(kind, A), (n, lda)), carray(pointer(kind, C), (n, ldc))[:, first : first + columns]
    for r in range(n):
        z = Z[r]
        for j in range(z.size):
            z[j] = w0[j]
    fours = k // 4 * 4
    for i in range(0, fours, 4):
        a, b, c, d = W[i], W[i + 1], W[i + 2], W[i + 3]
        for r in range(n):
            z, x0, x1, x2, x3 = Z[r], X[r, i], X[r, i + 1], X[r, i + 2], X[r, i + 3]
            for j in range(z.size):
                z[j] = moved(x3, d[j], moved(x2, c[j], moved(x1, b[j], moved(x0, a[j], z[j]))))
    for i in range(fours, k):
        a = W[i]
        for r in range(n):
            z, x0 = Z[r], X[r, i]
            for j in range(z.size):
                z[j] = moved(x0, a[j], z[j])
    if rectified:
        for r in range(n):
            z = Z[r]
            for j in range(z.size):
                z[j] = kind if z[j] < kind else z[j]


@_compiled  # type: ignore[untyped-decorator]
def _rows(kind: Any, job: Array, first: int, n: int, scratch: int) -> None:
    """Put rows through all layers, and write the output."""
    size, lanes, layers = job[8], job[9], job[5]
    A, lda = job[0] + first * job[1] * size, job[1]
    units = lda
    for layer in range(layers):
        units = job[HEAD + PER_LAYER * layer + 2]
        C, ldc = scratch + (layer % 2) * job[7] * size, (units + lanes - 1) // lanes * lanes
        for p in range((units + job[12] - 1) // job[12]):
            _panel(kind, job, layer, p, A, lda, n, C, ldc)
        A, lda = C, ldc
    _copy(kind, A, lda, n, units, job[3] + first * units * size)


@_compiled  # type: ignore[untyped-decorator]
def _copy(kind: Any, A: int, lda: int, n: int, units: int, out: int) -> None:
    here, there = carray(pointer(kind, A), n * lda), carray(pointer(kind, out), n * units)
    for i in range(n):
        for j in range(units):
            there[i * units + j] = here[i * lda + j]


@_compiled  # type: ignore[untyped-decorator]
def _work(kind: Any, job: Array, memory: int, me: int) -> None:
    """Take pieces of an open call until there are no more: tiles of rows, or panels of one layer after the other."""
    size, lanes, layers, tile, counters = job[8], job[9], job[5], job[4], memory + 8 * COUNTERS
    if not job[10]:
        pieces = (job[2] + tile - 1) // tile
        while True:
            i = add(counters, 1)
            if i >= pieces:
                break
            _rows(kind, job, i * tile, min(tile, job[2] - i * tile), job[6] + 2 * me * job[7] * size)
            add(counters + 64, 1)
        while me == 0 and look(counters + 64) < pieces:
            pause()
        return
    A, lda, units = job[0], job[1], job[1]
    taken, members = counters, look(memory + 8 * WANTED) + 1
    for layer in range(layers):
        units = job[HEAD + PER_LAYER * layer + 2]
        C, ldc = job[6] + (layer % 2) * job[7] * size, (units + lanes - 1) // lanes * lanes
        pieces = (units + job[12] - 1) // job[12]
        first = me * pieces // members  # first those of the last call, which are in the cache of its core
        for i in range(first, first + pieces):
            p = i % pieces
            if add(taken + 64 + 8 * p, 1) == 0:
                _panel(kind, job, layer, p, A, lda, job[2], C, ldc)
                add(taken, 1)
        while look(taken) < pieces:
            pause()
        taken += 64 + 8 * pieces
        A, lda = C, ldc
    if me == 0:
        _copy(kind, A, lda, job[2], units, job[3])


@_compiled  # type: ignore[untyped-decorator]
def _alone(kind: Any, job: Array, X: Array, out: Array) -> None:
    job[0], job[2], job[3] = X.ctypes.data, X.shape[0], out.ctypes.data
    first, tile = 0, job[4]
    while first < job[2]:
        n = min(tile, job[2] - first)
        _rows(kind, job, first, n, job[6])
        first += n


@_compiled  # type: ignore[untyped-decorator]
def _together(kind: Any, job: Array, X: Array, out: Array, memory: int, wanted: int) -> None:
    job[0], job[2], job[3] = X.ctypes.data, X.shape[0], out.ctypes.data
    counters = carray(pointer(np.int64(0), memory + 8 * COUNTERS), job[13])
    for i in range(job[13]):
        counters[i] = 0
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


@_compiled  # type: ignore[untyped-decorator]
def _digest(sources: Array) -> Any:
    """Return a hash of the numbers at these addresses; it misses a change with a chance of 1 in 2³²."""
    digest = np.uint64(0)
    lanes = np.zeros(128, dtype=np.uint32)
    for i in range(sources.shape[0]):
        words = carray(pointer(np.uint32(0), sources[i, 0]), sources[i, 1])
        whole = words.size // 128 * 128
        for at in range(0, whole, 128):
            for j in range(128):
                lanes[j] = lanes[j] * np.uint32(0x9E3779B1) + words[at + j]
        for j in range(words.size - whole):
            lanes[j] = lanes[j] * np.uint32(0x9E3779B1) + words[whole + j]
        for j in range(128):
            digest = digest * np.uint64(0x9E3779B97F4A7C15) + np.uint64(lanes[j])
    return digest


_TEAM = Team(lambda memory, job, me: _serve(np.float32(0), np.float64(0), memory, job, me), HEAD + PER_LAYER * LAYERS)


class _Packed:
    """Packed weights, and the jobs and scratch memory of the calls that use them."""

    def __init__(self, layers: Sequence[tuple[Array, Array | None, bool]]) -> None:
        dtype = layers[0][0].dtype
        lanes = REGISTER // dtype.itemsize
        panel, widest = VECTORS * lanes, max(W.shape[1] for W, _, _ in layers)
        self.size, self.half = dtype.itemsize, TILE * -(-widest // lanes) * lanes
        self.dtype, self.panel, self.widest = dtype, panel, widest
        zeros = np.zeros((1, widest), dtype=dtype)
        pairs = [(W, zeros if w0 is None else w0) for W, w0, _ in layers]
        given = [x for pair in pairs for x in pair]
        in_a_row = [np.ascontiguousarray(x.T if x.flags.f_contiguous else x) for x in given]
        self.scattered = not all(x.flags.forc for x in given)  # then these are copies, which do not show changes
        sources = [(x.ctypes.data, x.nbytes // 4) for x in in_a_row]
        self.sources = np.asarray(sources, dtype=np.int64)
        self.digest = _digest(self.sources)
        self.weights = sum(W.size for W, _ in pairs)
        # a few thousand are checked in a microsecond
        self.readable = self.weights > SMALL and all(x.flags.c_contiguous for x in given)
        packed = [_pack(W, w0, panel, -(-W.shape[1] // lanes) * lanes) for W, w0 in pairs]
        self.kept = given, in_a_row, packed
        head = [0, layers[0][0].shape[0], 0, 0, TILE, len(layers), 0, self.half, self.size, lanes]
        self.job = np.zeros(HEAD + PER_LAYER * len(layers), dtype=np.int64)
        self.job[: len(head)] = head
        for i, ((W, w0), (_, _, rectified), own) in enumerate(zip(pairs, layers, packed, strict=True)):
            addresses = W.ctypes.data, w0.ctypes.data
            self.job[HEAD + PER_LAYER * i :][:PER_LAYER] = own.ctypes.data, *W.shape, rectified, *addresses
        panels = [-(-W.shape[1] // panel) for W, _ in pairs]
        self.job[13] = 16 + sum(8 + n for n in panels)
        self.free: list[tuple[Array, Array]] = []  # jobs and scratch that no call is using

    def memory(self) -> tuple[Array, Array]:
        """Return a job and its scratch."""
        try:
            return self.free.pop()
        except IndexError:
            job, scratch = self.job.copy(), empty((2 * self.half,), self.dtype, None)
            job[6] = scratch.ctypes.data
            return job, scratch


def _pack(W: Array, w0: Array, most: int, width: int) -> Array:
    n_in, n_units = W.shape
    whole = empty((width * (n_in + 1),), W.dtype, None)
    for first in range(0, n_units, most):
        columns = min(most, width - first)
        panel = whole[first * (n_in + 1) :][: columns * (n_in + 1)].reshape(n_in + 1, columns)
        part = W[:, first : first + columns]
        panel[1:, : part.shape[1]] = part
        panel[0, : part.shape[1]] = w0[0, first : first + part.shape[1]]
        panel[:, part.shape[1] :] = 0.0
    return whole


class Panels:
    """Dense layers in a row, packed: called with rows, it returns their output.

    Any number of threads may call it at the same time.

    Parameters
    ----------
    layers : sequence of (W, w0 or None, bool)
        Weights and bias, float32 or float64, and whether a ReLU follows.
    """

    def __init__(self, layers: Sequence[tuple[Array, Array | None, bool]]) -> None:
        self._layers, self.dtype = list(layers), layers[0][0].dtype
        self.n_in, self.units = int(layers[0][0].shape[0]), int(layers[-1][0].shape[1])
        self._kind = self.dtype.type(0)
        self._packed = _Packed(layers)

    def __call__(self, X: Array) -> Array:
        """Return the output for contiguous rows, by the weights as they were packed."""
        return self._computed(self._packed, X, False)

    def now(self, X: Array) -> Array:
        """Return the output by the weights as they are now, even if numbers were written into their arrays."""
        own = self._packed
        if own.readable and X.shape[0] <= FEWEST:
            return self._computed(own, X, True)
        if own.scattered or own.digest != _digest(own.sources):
            own = self._packed = _Packed(self._layers)
        return self._computed(own, X, False)

    def _computed(self, own: _Packed, X: Array, in_place: bool) -> Array:
        n = X.shape[0]
        out = np.empty((n, self.units), dtype=self.dtype)
        # fewer rows than a block take as long as a block, because of the weights
        shares = max(n, HEIGHTS[0]) * own.weights // SHARE if n else 0
        if shares > 1 and self._shared(own, X, out, in_place, shares - 1):
            return out
        job, scratch = own.memory()
        job[11], job[12] = in_place, own.widest if in_place else own.panel
        _alone(self._kind, job, X, out)
        own.free.append((job, scratch))
        return out

    def _shared(self, own: _Packed, X: Array, out: Array, in_place: bool, wanted: int) -> bool:
        """Compute with other threads, if there are some; return whether there are."""
        n, few = X.shape[0], X.shape[0] <= FEW
        fits = len(self._layers) <= LAYERS and own.job[13] <= MANY
        others = _TEAM.take(wanted) if fits else 0
        if not others:
            return False
        try:
            job = _TEAM.job
            job[: own.job.size] = own.job
            tile = min(TILE, -(-n // ((others + 1) * HEIGHTS[0])) * HEIGHTS[0])
            half = own.half // TILE * (n if few else tile)
            buffers = 2 * half * (1 if few else others + 1)
            job[6] = _TEAM.scratch(buffers * own.size)
            job[4], job[7], job[10], job[11] = tile, half, few, in_place
            job[12] = max(4 * own.panel, own.widest // (2 * others + 2)) if in_place else own.panel
            _together(self._kind, job, X, out, _TEAM.memory, others)
        finally:
            _TEAM.give_back()
        return True
