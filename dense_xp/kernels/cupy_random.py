"""The uniform numbers of NumPy's default generator, drawn on the device: the same bits as on the host.

PCG64 [1]_ replaces its 128-bit state s by a s + c for each number, and computes 64 bits from it. Many such steps are
one step of the same form, whose a and c are found by squaring [2]_. So every thread jumps to its first number, and from
there on by as many numbers as there are threads.

References
----------
.. [1] M. E. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
   Generation", HMC-CS-2014-0905 (2014); XSL-RR 128/64, with the multiplier of NumPy's ``PCG64``.
.. [2] F. B. Brown, "Random Number Generation with Arbitrary Strides", Transactions of the American Nuclear Society 71
   (1994).
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import cupy

Array: TypeAlias = Any

THREADS, MOST_BLOCKS = 256, 1024

_SOURCE = r"""
struct Wide { unsigned long long high, low; };

__device__ Wide multiplied(Wide a, Wide b) {
    return {__umul64hi(a.low, b.low) + a.high * b.low + a.low * b.high, a.low * b.low};
}

__device__ Wide added(Wide a, Wide b) {
    unsigned long long low = a.low + b.low;
    return {a.high + b.high + (low < a.low), low};
}

struct Step { Wide a, c; };

__device__ Wide moved(Step step, Wide state) { return added(multiplied(step.a, state), step.c); }

__device__ Step repeated(Step once, unsigned long long n) {
    Step all = {{0, 1}, {0, 0}};
    for (; n; n >>= 1) {
        if (n & 1) all = {multiplied(all.a, once.a), moved(once, all.c)};
        once = {multiplied(once.a, once.a), moved(once, once.c)};
    }
    return all;
}

extern "C" __global__ void __launch_bounds__(1024) uniform_at_least(
    bool* out, long long n, double bound, long long state_high, long long state_low, long long c_high, long long c_low
) {
    typedef unsigned long long Word;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long long)gridDim.x * blockDim.x;
    Step once = {{0x2360ED051FC65DA4ULL, 0x4385DF649FCCF645ULL}, {(Word)c_high, (Word)c_low}};
    Step far = repeated(once, threads);
    Wide state = moved(repeated(once, i + 1), {(Word)state_high, (Word)state_low});
    for (; i < n; i += threads, state = moved(far, state)) {
        Word x = state.high ^ state.low, turn = state.high >> 58;
        x = x >> turn | x << ((64 - turn) & 63);
        out[i] = (double)(x >> 11) * (1.0 / 9007199254740992.0) >= bound;  // 53 bits, as NumPy takes them
    }
}
"""


@functools.cache
def _kernel() -> Any:
    return cupy.RawModule(code=_SOURCE).get_function("uniform_at_least")


def uniform_at_least(bound: float, shape: tuple[int, ...], words: tuple[int, int, int, int]) -> Array:
    """Return where the uniform numbers of a generator in a certain state are at least `bound`.

    Parameters
    ----------
    bound : float
        The bound.
    shape : tuple of int
        How many there are.
    words : tuple of int
        State and increment of a ``numpy.random.PCG64``, in halves, the upper one first, as signed integers.
    """
    out = cupy.empty(shape, dtype=cupy.bool_)
    blocks = min(MOST_BLOCKS, -(-out.size // THREADS))
    if blocks:
        _kernel()((blocks,), (THREADS,), (out, out.size, float(bound), *words))
    return out
