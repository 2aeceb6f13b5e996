"""Products of blocks in the registers of a core, written in LLVM's language.

Each number of a result is summed in an order that depends on the lengths alone, by FMA where the processor has it. So
the bits do not depend on how rows and columns are cut into blocks, nor on which thread computes them.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES = binding.get_host_cpu_features()
_ARM = platform.machine().lower() in ("arm64", "aarch64")
REGISTER, VECTORS = (64, 4) if _FEATURES.get("avx512f") else (16, 4) if _ARM else (32, 2)
"""Bytes in a register, and registers in a row of a block: with six rows they fill the registers of a core."""

_FUSED = _ARM or bool(_FEATURES.get("fma"))
HEIGHTS = (6, 2, 1)
"""Rows in a block: first as many blocks of six as fit, then two and one."""

_WIDTHS = (VECTORS, 1)
"""Columns in a block of :func:`dots`."""


class _Code:
    """Writes code for vectors of numbers that fill a register; addresses and lengths are integers of 64 bits."""

    def __init__(self, context: Any, builder: Any, kind: Any) -> None:
        self.builder, self.size = builder, kind.bitwidth // 8
        self.whole, self.number = ir.IntType(64), context.get_value_type(kind)
        self.lanes = REGISTER // self.size
        self.vector = ir.VectorType(self.number, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)
        self.suffix = f"v{self.lanes}f{kind.bitwidth}"

    def call(self, name: str, result: Any, *values: Any, **how: Any) -> Any:
        kind = ir.FunctionType(result, [value.type for value in values])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), values, **how)

    def place(self, base: Any, numbers: Any, what: Any) -> Any:
        """Return a pointer to what lies so many numbers after an address."""
        offset = self.builder.mul(numbers, self.whole(self.size))
        return self.builder.inttoptr(self.builder.add(base, offset), what.as_pointer())

    def load(self, base: Any, numbers: Any) -> Any:
        return self.builder.load(self.place(base, numbers, self.vector), align=self.size)

    def load_some(self, base: Any, numbers: Any, mask: Any) -> Any:
        """Return a vector with zeros where the mask is not set; nothing is read there."""
        at = self.place(base, numbers, self.vector)
        return self.call(
            f"llvm.masked.load.{self.suffix}.p0", self.vector, at, ir.IntType(32)(self.size), mask, self.zero
        )

    def load_repeated(self, base: Any, numbers: Any) -> Any:
        """Return a vector that repeats one number."""
        one = self.builder.load(self.place(base, numbers, self.number))
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, one, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, nothing, ir.VectorType(ir.IntType(32), self.lanes)([0] * self.lanes))

    def moved(self, x: Any, y: Any, total: Any) -> Any:
        """Return total + x y."""
        if _FUSED:
            return self.call(f"llvm.fma.{self.suffix}", self.vector, x, y, total)
        return self.builder.fadd(total, self.builder.fmul(x, y))

    def outer(self, xs: Iterator[Any], ys: Sequence[Any], sums: Sequence[Any]) -> list[Any]:
        """Return the sums, one x after the other, with all products added; an x is loaded only when it is needed."""
        rows = (sums[at : at + len(ys)] for at in range(0, len(sums), len(ys)))
        return [self.moved(x, y, s) for x, row in zip(xs, rows, strict=True) for y, s in zip(ys, row, strict=True)]

    def loop(self, end: Any, step: Any, sums: Sequence[Any], body: Callable[[Any, Sequence[Any]], list[Any]]) -> Any:
        """Put sums through ``body(i, sums)`` for i = 0, step, 2 step … below `end`, and return them."""
        builder, before = self.builder, self.builder.block
        test, inside, after = (builder.append_basic_block(name) for name in ("test", "inside", "after"))
        builder.branch(test)
        builder.position_at_end(test)
        i, *now = (builder.phi(value.type) for value in (end, *sums))
        builder.cbranch(builder.icmp_signed("<", i, end), inside, after)
        builder.position_at_end(inside)
        more = [builder.add(i, step), *body(i, now)]
        builder.branch(test)
        for phi, first, new in zip((i, *now), (self.whole(0), *sums), more, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(new, inside)
        builder.position_at_end(after)
        return now

    @contextlib.contextmanager
    def blocks(self, count: Any, size: int, at: Any) -> Iterator[Any]:
        """Repeat the code inside while there is a whole block left of so many, from `at` on, which is moved."""
        builder = self.builder
        test, inside, after = (builder.append_basic_block(name) for name in ("test", "inside", "after"))
        builder.branch(test)
        builder.position_at_end(test)
        here = builder.load(at)
        builder.cbranch(builder.icmp_signed(">=", builder.sub(count, here), self.whole(size)), inside, after)
        builder.position_at_end(inside)
        yield here
        builder.store(builder.add(here, self.whole(size)), at)
        builder.branch(test)
        builder.position_at_end(after)


@intrinsic  # type: ignore[untyped-decorator]
def multiply(
    typing_context: Any, kind: Any, vectors: Any, A: Any, lda: Any, n: Any, B: Any, ldb: Any, k: Any, C: Any, ldc: Any,
    start: Any, step: Any, rectified: Any,
) -> Any:  # fmt: skip
    """Write start + A B, or its ReLU, into C; B has so many vectors in a row, and is read up to the last.

    All but `kind` are integers: addresses, and lengths in numbers. `lda` is the distance between rows of A, `step`
    between those of `start`.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, vectors, A, lda, n, B, ldb, k, C, ldc, start, step, rectified = args
        own = _Code(context, builder, kind)
        relu = builder.icmp_signed("!=", rectified, own.whole(0))

        def at(stride: Any, row: Any, column: int = 0) -> Any:
            return builder.add(builder.mul(stride, row), own.whole(column))

        def block(height: int, width: int, row: Any) -> None:
            rows = [builder.add(row, own.whole(r)) for r in range(height)]
            columns = [own.lanes * v for v in range(width)]

            def body(i: Any, sums: Sequence[Any]) -> list[Any]:
                ys = [own.load(B, at(ldb, i, column)) for column in columns]
                xs = (own.load_repeated(A, builder.add(at(lda, r), i)) for r in rows)
                return own.outer(xs, ys, sums)

            sums = [own.load(start, at(step, r, column)) for r in rows for column in columns]
            sums = own.loop(k, own.whole(1), sums, body)
            for y, (r, column) in zip(sums, ((r, column) for r in rows for column in columns), strict=True):
                positive = builder.select(builder.fcmp_ordered("<", y, own.zero), own.zero, y)  # a NaN stays one
                place = own.place(C, at(ldc, r, column), own.vector)
                builder.store(builder.select(relu, positive, y), place, align=own.size)

        for width in range(1, VECTORS + 1):
            with builder.if_then(builder.icmp_signed("==", vectors, own.whole(width))):
                row = cgutils.alloca_once_value(builder, own.whole(0))
                for height in HEIGHTS:
                    with own.blocks(n, height, row) as here:
                        block(height, width, here)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 12), code


@intrinsic  # type: ignore[untyped-decorator]
def dots(
    typing_context: Any, kind: Any, A: Any, lda: Any, n: Any, B: Any, ldb: Any, m: Any, k: Any, C: Any, ldc: Any
) -> Any:
    """Write A Bᵀ into C, for n rows of A and m of B, of k numbers each.

    All but `kind` are integers, as in :func:`multiply`. Each lane of a register sums its products, and the sums of all
    lanes are added in the end.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, A, lda, n, B, ldb, m, k, C, ldc = args
        own = _Code(context, builder, kind)
        rest = builder.srem(k, own.whole(own.lanes))
        end = builder.sub(k, rest)
        bits = ir.VectorType(ir.IntType(1), own.lanes)
        all_before = builder.sub(builder.shl(ir.IntType(64)(1), rest), ir.IntType(64)(1))
        mask = builder.bitcast(builder.trunc(all_before, ir.IntType(own.lanes)), bits)

        def block(height: int, width: int, row: Any, column: Any) -> None:
            rows = [builder.add(row, own.whole(r)) for r in range(height)]
            columns = [builder.add(column, own.whole(c)) for c in range(width)]

            def body(load: Callable[..., Any], *where: Any) -> Callable[[Any, Sequence[Any]], list[Any]]:
                def added(i: Any, sums: Sequence[Any]) -> list[Any]:
                    ys = [load(B, builder.add(builder.mul(ldb, c), i), *where) for c in columns]
                    xs = (load(A, builder.add(builder.mul(lda, r), i), *where) for r in rows)
                    return own.outer(xs, ys, sums)

                return added

            sums = own.loop(end, own.whole(own.lanes), [own.zero] * (height * width), body(own.load))
            sums = body(own.load_some, mask)(end, sums)
            for y, (r, c) in zip(sums, ((r, c) for r in rows for c in columns), strict=True):
                total = own.call(
                    f"llvm.vector.reduce.fadd.{own.suffix}", own.number, own.number(0.0), y, fastmath=("reassoc",)
                )
                builder.store(total, own.place(C, builder.add(builder.mul(ldc, r), c), own.number))

        row = cgutils.alloca_once_value(builder, own.whole(0))
        for height in HEIGHTS:
            with own.blocks(n, height, row) as here:
                column = cgutils.alloca_once(builder, own.whole)
                builder.store(own.whole(0), column)
                for width in _WIDTHS:
                    with own.blocks(m, width, column) as beside:
                        block(height, width, here, beside)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 9), code


@intrinsic  # type: ignore[untyped-decorator]
def moved(typing_context: Any, x: Any, w: Any, total: Any) -> Any:
    """Return total + x w, rounded as in :func:`multiply`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, c = args
        return builder.fma(a, b, c) if _FUSED else builder.fadd(c, builder.fmul(a, b))

    return total(total, total, total), code
