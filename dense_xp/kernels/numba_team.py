"""A pool of threads for compiled work: they join a call that has begun, which does not wait for a late one.

A call begins at once, and its pieces are taken through counters in shared memory. A thread without work looks for it
for about a millisecond, and then sleeps, so that it does not slow down other libraries. One call at a time has the
team; a call that comes meanwhile works alone.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import os
import platform
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dense_xp.kernels.numpy import empty

SPINS = 80_000
"""How often a thread looks for work before it sleeps: about a millisecond. Waking it takes a part of one."""

OPEN, ACTIVE, WANTED, AWAKE, COUNTERS = 0, 8, 16, 24, 24 + 256
"""Offsets in the shared memory: the number of the open call, or 0; how many threads are in it; how many may be; which
are awake; the counters of the work. Eight numbers are a cache line."""

MOST, MANY = 256, 4096
"""The most threads of a team, and the most counters of a call."""


_X86 = platform.machine().lower() in ("x86_64", "amd64")

# ------------------------------------------------------------------ memory that threads share


def _place(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def add(typing_context: Any, address: Any, value: Any) -> Any:
    """Add to a number in memory, atomically, and return its old value."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _place(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def look(typing_context: Any, address: Any) -> Any:
    """Return a number in memory by an atomic read."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_place(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def put(typing_context: Any, address: Any, value: Any) -> Any:
    """Write a number to memory, atomically."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _place(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def pause(typing_context: Any) -> Any:
    """Let the other hardware thread of the core run, in a loop that waits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic  # type: ignore[untyped-decorator]
def flush_to_zero(typing_context: Any) -> Any:
    """Treat subnormal numbers as zero in this thread, and return the old setting.

    An x86 processor takes a hundred cycles for each of them; others are not slowed down, and left as they are.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _X86:
            return ir.Constant(ir.IntType(32), 0)
        place = cgutils.alloca_once(builder, ir.IntType(32))
        _control(builder, "stmxcsr", place)
        before = builder.load(place)
        builder.store(builder.or_(before, ir.Constant(ir.IntType(32), 0x8040)), place)
        _control(builder, "ldmxcsr", place)
        return before

    return types.uint32(), code


@intrinsic  # type: ignore[untyped-decorator]
def put_back(typing_context: Any, before: Any) -> Any:
    """Undo :func:`flush_to_zero`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _X86:
            place = cgutils.alloca_once_value(builder, args[0])
            _control(builder, "ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.uint32), code


def _control(builder: Any, name: str, place: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}")
    builder.call(function, [builder.bitcast(place, ir.IntType(8).as_pointer())])


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing_context: Any, kind: Any, address: Any) -> Any:
    """Return an address as a pointer to numbers of the type of `kind`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(kind, types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def call(typing_context: Any, address: Any, values: Any) -> Any:
    """Call the C function at an address with some integers; so it is compiled once, and not into each caller."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.int64, values), code


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def opened(memory: int, wanted: int) -> None:
    """Open a call, for so many threads besides the caller's."""
    put(memory + 8 * WANTED, wanted)
    put(memory + 8 * OPEN, look(memory + 8 * OPEN + 8) + 1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def closed(memory: int) -> None:
    """Close the call that is open, once all have left it."""
    put(memory + 8 * OPEN + 8, look(memory + 8 * OPEN))
    put(memory + 8 * OPEN, 0)
    while look(memory + 8 * ACTIVE) > 0:
        pause()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def entered(memory: int, me: int, seen: int, spins: int = SPINS) -> int:
    """Enter a call with another number than `seen`, and return its number; 0 if none came in time."""
    for _ in range(spins):
        number: int = look(memory + 8 * OPEN)
        if number and number != seen and me <= look(memory + 8 * WANTED):
            add(memory + 8 * ACTIVE, 1)
            if look(memory + 8 * OPEN) == number:  # it was not closed meanwhile
                return number
            add(memory + 8 * ACTIVE, -1)
        pause()
    put(memory + 8 * (AWAKE + me), 0)
    return 0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def left(memory: int) -> None:
    """Leave the call."""
    add(memory + 8 * ACTIVE, -1)


# ------------------------------------------------------------------ the threads


class Team:
    """The threads of this process that wait for compiled work.

    Parameters
    ----------
    serve : callable
        ``serve(memory, job, me)`` looks for work and does it, until none has come for a while; `me` numbers the thread.
    size : int
        Numbers in a job.

    Attributes
    ----------
    memory : int
        Address of the shared memory.
    job : numpy.ndarray
        The arguments of the open call.
    """

    def __init__(self, serve: Callable[[int, Any, int], None], size: int) -> None:
        self.serve, self.size = serve, size
        self.reset()
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.reset)  # a forked process has none of these threads

    def reset(self) -> None:
        """Forget all threads."""
        self._memory = np.zeros(COUNTERS + MANY + 8, dtype=np.int64)
        self.memory = int(-(-self._memory.ctypes.data // 64) * 64)
        self.job = np.zeros(self.size, dtype=np.int64)
        self._scratch = np.empty(0, dtype=np.uint8)
        self._taken = threading.Lock()
        self._bells: list[threading.Lock] = []
        self._threads: list[threading.Thread] = []
        self._here = -1  # the core of the last caller
        self._ended = False

    def take(self, wanted: int) -> int:
        """Take the team for a call, if it is free; return how many threads, besides the caller's, are woken."""
        wanted = min(wanted, allowed_threads() - 1, MOST - 2)
        if wanted < 1 or self._ended:
            return 0
        if not self._threads:  # compile or load the code here: in a thread it would come late, and delay the exit
            self.serve(self.memory, self.job, MOST - 1)
        if not self._taken.acquire(blocking=False):
            return 0
        while len(self._bells) < wanted:
            self._bells.append(threading.Lock())
            self._bells[-1].acquire()
            of_all = self.memory, self.job, len(self._bells)
            thread = threading.Thread(target=self._live, args=of_all, daemon=True, name=f"dense_xp-{len(self._bells)}")
            thread.start()
            self._threads.append(thread)
            self._here = -1
        here = _cpu()
        if here != self._here:
            self._here = here
            for thread in self._threads:
                _keep_off(thread, here)
        awake = np.ndarray(MOST, np.int64, self._memory, self.memory - self._memory.ctypes.data + 8 * AWAKE)
        for number in range(1, wanted + 1):
            if not awake[number]:
                awake[number] = 1
                self._bells[number - 1].release()
        return wanted

    def scratch(self, size: int) -> int:
        """Return the address of so many bytes for the open call; the memory is kept for the next one."""
        if self._scratch.size < size:
            self._scratch = empty((size,), np.uint8, None)
        return int(self._scratch.ctypes.data)

    def give_back(self) -> None:
        """Free the team for the next call."""
        self._taken.release()

    def end(self) -> None:
        """End all threads, before the interpreter frees their code and memory."""
        self._ended = True
        for bell, thread in zip(self._bells, self._threads, strict=False):
            with contextlib.suppress(RuntimeError):  # it is awake already
                bell.release()
            thread.join()

    def _live(self, memory: int, job: Any, me: int) -> None:
        bell, serve = self._bells[me - 1], self.serve
        while True:
            bell.acquire()
            if self._ended:
                return
            serve(memory, job, me)


def _blas() -> list[Any]:
    if importlib.util.find_spec("threadpoolctl") is None:
        return []
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def allowed_threads() -> int:
    """Return how many threads a call may use: as many as cores for this process, and not more than BLAS may use.

    Without threadpoolctl, the limit of BLAS is read from the environment.
    """
    global _libraries
    if _libraries is None:
        _libraries = _blas()
    limits = [library.get_num_threads() for library in _libraries]
    if not _libraries:
        limits = [int(os.environ[name]) for name in _LIMITS if os.environ.get(name, "").isdigit()]
    return int(max(1, min([_CORES, *limits])))


def _keep_off(thread: threading.Thread, cpu: int) -> None:
    """Keep a thread off the caller's core: a scheduler may leave two that wait for each other on one core for long."""
    if cpu >= 0 and thread.native_id is not None and (others := os.sched_getaffinity(0) - {cpu}):
        with contextlib.suppress(OSError):  # it may be forbidden
            os.sched_setaffinity(thread.native_id, others)


def _which_cpu() -> Callable[[], int]:
    try:
        function: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
        return function if function() >= 0 else lambda: -1
    except (AttributeError, OSError, TypeError):
        return lambda: -1


_LIMITS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_cpu = _which_cpu() if hasattr(os, "sched_setaffinity") else lambda: -1
_libraries: list[Any] | None = None
