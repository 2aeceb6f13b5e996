"""Two CUDA devices and CuPy for them, played on the host as strictly as CUDA's rules allow.

Arrays live in memory that has to be asked for; what nobody holds any more is overwritten and used again. Work is done
at once, but as far as the rules go it may be done at any time that streams and events leave open: whoever reads or
writes memory without having waited for its last writer, or writes it without having waited for its readers, is told so.

A recorded stream keeps what was launched on it, with the very memory and numbers, and undoes it all when the recording
ends. A launch of the graph repeats it, while Python does not run.

Memory, streams, events, pools and handles belong to the device that was current when they were made, and there alone
they serve: copies from the host and waiting excepted, as CUDA's rules are.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import functools
import importlib
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from dense_xp.backend import Backend, libraries
from tests.stand_ins import cupy_on_host

HOST = 0  # the host among the streams


class Device:
    """Equal by number, current inside its ``with`` block, and without a hash."""

    current: ClassVar[int] = 0

    def __init__(self, number: int | None = None) -> None:
        self.id = Device.current if number is None else number
        self.before: list[int] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]

    def __enter__(self) -> Device:
        self.before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *_: Any) -> None:
        Device.current = self.before.pop()


# ------------------------------------------------------------------ memory, and who used it when


class Memory:
    """Some bytes, and the last use of them by each stream."""

    every: ClassVar[dict[int, Memory]] = {}
    addresses: ClassVar[list[int]] = []

    def __init__(self, size: int, pool: MemoryPool | None, pinned: bool = False) -> None:
        self.device = None if pinned else Device.current
        self.store = np.full(max(size, 1), 0xFF, dtype=np.uint8)
        self.pool = None if pool is None else weakref.ref(pool)
        self.private = pool is not None and pool is not default_pool
        self.address = self.store.ctypes.data
        self.uses = 0
        self.held = True
        self.written: tuple[int, int] | None = None
        self.read: dict[int, int] = {}
        Memory.every[self.address] = self
        bisect.insort(Memory.addresses, self.address)

    @classmethod
    def at(cls, address: int) -> Memory:
        """Return whose address it is."""
        found = cls.every[cls.addresses[bisect.bisect_right(cls.addresses, address) - 1]]
        assert found.held, "an address that was given back"
        assert address < found.address + found.store.size, "ordinary memory, which the device cannot reach by itself"
        return found


class Holder:
    """Keeps memory from being used again as long as an array is in it."""

    def __init__(self, size: int) -> None:
        pool = machine.pool
        self.memory = pool.take(size) if pool is not None else Memory(size, None)
        weakref.finalize(self, _release, self.memory)


def _release(memory: Memory) -> None:
    memory.held = False
    memory.store[:] = 0xFF  # as floating-point numbers these are NaN
    if memory.pool is not None and (pool := memory.pool()) is not None:
        pool.free.setdefault((memory.device, memory.store.size), []).append(memory)


class MemoryPool:
    """Its blocks and what is in them hold each other, from the first one until they are given back."""

    kept: ClassVar[set[int]] = set()  # the numbers of those pools
    count = 0

    def __init__(self) -> None:
        self.free: dict[Any, list[Memory]] = {}
        self.blocks = self.bytes = 0
        MemoryPool.count += 1
        self.number = MemoryPool.count

    def total_bytes(self) -> int:
        return self.bytes

    def free_all_blocks(self) -> None:
        """Of the device that is current: cupy/cuda/memory.pyx, ``MemoryPool.free_all_blocks``."""
        own = [key for key in self.free if key[0] == Device.current]
        for key in own:
            blocks = self.free.pop(key)
            self.blocks -= len(blocks)
            self.bytes -= key[1] * len(blocks)
        if not self.blocks:
            MemoryPool.kept.discard(self.number)

    def take(self, size: int) -> Memory:
        found = self.free.get((Device.current, max(size, 1)))
        if not found:
            self.blocks += 1
            self.bytes += max(size, 1)
            MemoryPool.kept.add(self.number)
            return Memory(size, self)
        memory = found.pop()
        memory.uses += 1
        memory.held = True
        return memory

    def malloc(self, size: int) -> Any:
        raise NotImplementedError("the arrays ask their pool themselves")


class Machine:
    """What the driver knows: the current stream, the pool in use, and what each stream has waited for."""

    def __init__(self) -> None:
        self.pool: MemoryPool | None = None
        self.clocks: dict[int, dict[int, int]] = {HOST: {}}
        self.launched: list[str] = []

    def waits(self, actor: int, clock: dict[int, int]) -> None:
        own = self.clocks[actor]
        for other, time in clock.items():
            own[other] = max(own.get(other, 0), time)

    def use(self, actor: int, reads: Sequence[Memory], writes: Sequence[Memory]) -> None:
        """Note a use, and complain if it might come too early."""
        if actor != HOST:
            self.waits(actor, self.clocks[HOST])  # nothing is launched before the host says so
        clock = self.clocks[actor]
        clock[actor] = time = clock.get(actor, 0) + 1

        def happened(use: tuple[int, int]) -> bool:
            return clock.get(use[0], 0) >= use[1]

        for memory in (*reads, *writes):
            assert actor == HOST or memory.device in (None, Stream.known[actor].device), "memory of the other device"
            assert memory.written is None or happened(memory.written), "a race: its writer may not be done"
        for memory in writes:
            assert all(map(happened, memory.read.items())), "a race: it is written while somebody may still read it"
            memory.written, memory.read = (actor, time), {}
        for memory in reads:
            memory.read[actor] = time


machine = Machine()
default_pool = MemoryPool()
machine.pool = default_pool


@contextlib.contextmanager
def using_allocator(malloc: Any) -> Iterator[None]:
    before, machine.pool = machine.pool, malloc.__self__
    try:
        yield
    finally:
        machine.pool = before


# ------------------------------------------------------------------ streams, events, graphs


class Stream:
    stacks: ClassVar[dict[int, list[Stream]]] = {}
    known: ClassVar[weakref.WeakValueDictionary[int, Stream]] = weakref.WeakValueDictionary()
    count = HOST

    def __init__(self, non_blocking: bool = False) -> None:
        Stream.count += 1
        self.ptr = self.count
        self.non_blocking, self.device = non_blocking, Device.current
        self.recording: Recording | None = None
        machine.clocks[self.ptr] = {}
        Stream.known[self.ptr] = self

    def __enter__(self) -> Stream:
        Stream.stacks[self.device].append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        Stream.stacks[self.device].pop()

    def begin_capture(self) -> None:
        if not self.non_blocking:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        assert self.recording is None
        self.recording = Recording()

    def end_capture(self) -> Graph:
        recording, self.recording = self.recording, None
        assert recording is not None
        recording.undo()
        if recording.broken:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return Graph(recording)

    def is_capturing(self) -> bool:
        return self.recording is not None

    def synchronize(self) -> None:
        if self.recording is not None:
            self.recording.broken = True
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")
        machine.waits(HOST, machine.clocks[self.ptr])

    def wait_event(self, event: Event) -> None:
        machine.waits(self.ptr, event.clock)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event


def current() -> Stream:
    return Stream.stacks[Device.current][-1]


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.clock: dict[int, int] = {}
        self.device = Device.current

    def record(self, stream: Stream | None = None) -> None:
        assert self.device == (stream or current()).device, "an event of the other device"
        self.clock = dict(machine.clocks[(stream or current()).ptr])

    def synchronize(self) -> None:
        machine.waits(HOST, self.clock)


class Recording:
    def __init__(self) -> None:
        self.work: list[tuple[list[Memory], list[Memory], Callable[[], Any]]] = []
        self.before: dict[Memory, Any] = {}
        self.used: dict[Memory, int] = {}
        self.broken = False

    def add(self, reads: list[Memory], writes: list[Memory], work: Callable[[], Any]) -> None:
        self.work.append((reads, writes, work))
        for memory in (*reads, *writes):
            if memory not in self.before:
                self.used[memory] = memory.uses
                self.before[memory] = memory.store.copy(), memory.written, dict(memory.read)

    def undo(self) -> None:
        """Nothing that was recorded has happened."""
        for memory, (store, written, read) in self.before.items():
            memory.store[:] = store if memory.held and memory.uses == self.used[memory] else 0xFF
            memory.written, memory.read = written, read


class Graph:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def launch(self, stream: Stream | None = None) -> None:
        actor = (stream or current()).ptr
        assert (stream or current()).recording is None
        for memory, uses in self.recording.used.items():
            if memory.private:
                assert memory.pool is not None
                assert memory.pool() is not None, "the pool of the graph's memory is gone"
            else:
                assert memory.held, "memory of the graph was given back"
                assert memory.uses == uses, "memory of the graph belongs to another array now"
        machine.launched.append("graph")
        for reads, writes, work in self.recording.work:
            machine.use(actor, reads, writes)
            work()


for number in (0, 1):
    with Device(number):
        Stream.stacks[number] = [Stream()]


def launch(reads: list[Memory], writes: list[Memory], work: Callable[[], Any], first: Any = None) -> None:
    """Do some work on the current stream; `first` is what does it this time."""
    _launch_on(current(), reads, writes, work, first)


def _launch_on(stream: Stream, reads: list[Memory], writes: list[Memory], work: Any, first: Any = None) -> None:
    if stream.recording is not None:
        stream.recording.add(reads, writes, work)
    else:
        machine.launched.append("work")
        machine.use(stream.ptr, reads, writes)
    (first or work)()


# ------------------------------------------------------------------ arrays


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in the device's memory."""

    def __init__(self, holder: Holder, host: Any) -> None:
        self.holder, self.host = holder, host

    memory = property(lambda self: self.holder.memory)
    shape = property(lambda self: self.host.shape)
    strides = property(lambda self: self.host.strides)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    dtype = property(lambda self: self.host.dtype)
    flags = property(lambda self: self.host.flags)
    device = property(lambda self: Device(self.memory.device))
    T = property(lambda self: DeviceArray(self.holder, self.host.T))
    data = property(lambda self: MemoryPointer(self.holder, self.host.ctypes.data))

    def __array_namespace__(self, **_: Any) -> Any:
        return cupy()

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.get().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if ufunc is np.matmul:
            _refuse_cublas()
        return _called(getattr(ufunc, method), inputs, {**kwargs, "out": out[0] if isinstance(out, tuple) else out})

    def __getitem__(self, key: Any) -> Any:
        return _called(_item, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        host, (key, value), reads = self.host, *_unwrapped((key, value))
        launch([*reads, self.memory], [self.memory], lambda: host.__setitem__(key, value))

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def reshape(self, *shape: Any) -> Any:
        return _called(np.reshape, (self, shape[0] if isinstance(shape[0], tuple) else shape), {})

    def copy(self) -> Any:
        return _called(np.array, (self,), {})

    def get(self) -> Any:
        current().synchronize()
        machine.use(HOST, [self.memory], [])
        return self.host.copy()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    __hash__ = None  # type: ignore[assignment]


def _item(host: Any, key: Any) -> Any:
    item = host[key]  # a single number is a view too
    return item if isinstance(item, np.ndarray) else host[(*(key if isinstance(key, tuple) else (key,)), ...)]


def _unwrapped(value: Any) -> tuple[Any, list[Memory]]:
    """Return arguments for NumPy, and the memory that they are in."""
    if isinstance(value, DeviceArray):
        return value.host, [value.memory]
    if isinstance(value, list | tuple):
        pairs = [_unwrapped(item) for item in value]
        return type(value)(item for item, _ in pairs), [memory for _, own in pairs for memory in own]
    assert not (isinstance(value, np.ndarray) and value.ndim), "an array of the host among those of the device"
    return value, []


def _new(host: Any) -> DeviceArray:
    """Return uninitialized memory for such an array."""
    holder = Holder(host.nbytes)
    flat = holder.memory.store[: host.nbytes].view(host.dtype)
    by_columns = host.flags.f_contiguous and not host.flags.c_contiguous
    return DeviceArray(holder, flat.reshape(host.shape[::-1]).T if by_columns else flat.reshape(host.shape))


def _called(function: Any, arguments: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = kwargs.pop("out", None)
    given, reads = _unwrapped(arguments)
    if out is not None:
        place = out.host
        launch([*reads, out.memory], [out.memory], lambda: function(*given, **kwargs, out=place))
        return out
    result = function(*given, **kwargs)
    if isinstance(result, tuple):
        raise NotImplementedError(f"{function} returns several arrays")
    for argument in _arrays(arguments):
        if isinstance(result, np.ndarray) and result.size and np.may_share_memory(result, argument.host):
            return DeviceArray(argument.holder, result)  # a view: nothing was launched
    result = np.asarray(result)
    new = _new(result)
    place = new.host
    launch(reads, [new.memory], lambda: np.copyto(place, function(*given, **kwargs)), lambda: np.copyto(place, result))
    return new


def _arrays(value: Any) -> Iterator[DeviceArray]:
    if isinstance(value, DeviceArray):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _arrays(item)


def _refuse_cublas() -> None:
    if current().recording is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


class MemoryPointer:
    def __init__(self, holder: Any, ptr: int) -> None:
        self.holder, self.ptr = holder, int(ptr)

    def copy_from_device_async(self, source: MemoryPointer, size: int) -> None:
        to, what = self.ptr, source.ptr
        launch([Memory.at(what)], [Memory.at(to)], lambda: ctypes.memmove(to, what, size))


def asarray(data: Any, dtype: Any = None, copy: bool | None = None, device: Any = None, **_: Any) -> DeviceArray:
    if isinstance(data, DeviceArray):
        if not copy and dtype in (None, data.dtype):
            return data
        made: DeviceArray = _called(np.array, (data,), {"dtype": dtype or data.dtype})
        return made
    host = np.asarray(data, dtype=dtype)
    pinned.malloc(host.nbytes)
    new = _new(host)
    launch([], [new.memory], lambda: np.copyto(new.host, host))
    if current().recording is None:
        current().synchronize()
    else:  # the event that CuPy keeps with the page-locked memory never reports that it is done
        pinned.kept += 1
    return new


# ------------------------------------------------------------------ pinned memory


class PinnedArray(np.ndarray):
    """Memory of the host that the device copies from by itself: the host must not touch it meanwhile."""

    def __setitem__(self, key: Any, value: Any) -> None:
        machine.use(HOST, [], [Memory.at(self.ctypes.data)])
        super().__setitem__(key, value)

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, kwargs: Any) -> Any:
        out = kwargs.get("out")
        if isinstance(out, PinnedArray):
            machine.use(HOST, [], [Memory.at(out.ctypes.data)])
            kwargs = {**kwargs, "out": out.view(np.ndarray)}
        return function(*arguments, **kwargs)


class PinnedPool:
    """Where CuPy asks for page-locked memory before each upload."""

    def __init__(self) -> None:
        self.uploads = self.kept = 0
        self.malloc: Callable[[int], Any] = self.default

    def default(self, size: int) -> None:
        self.uploads += 1

    def set_allocator(self, malloc: Callable[[int], Any]) -> None:
        self.malloc = malloc


pinned = PinnedPool()


def empty_pinned(shape: Any, dtype: Any) -> Any:
    dtype = np.dtype(dtype)
    memory = Memory(int(np.prod(shape)) * dtype.itemsize, None, pinned=True)
    return memory.store.view(dtype).reshape(shape).view(PinnedArray)


def memcpy_async(to: int, what: int, size: int, kind: int, stream: int) -> None:
    _launch_on(Stream.known[stream], [Memory.at(what)], [Memory.at(to)], lambda: ctypes.memmove(to, what, size))


# ------------------------------------------------------------------ kernels


class ElementwiseKernel(cupy_on_host.ElementwiseKernel):
    def __call__(self, *arguments: Any) -> None:
        given, memories = _unwrapped(arguments)
        _, writes = _unwrapped(arguments[len(self.inputs) :])
        launch(memories, writes, functools.partial(super().__call__, *given))


class RawModule(cupy_on_host.RawModule):
    def get_function(self, name: str) -> Any:
        kernel = cupy_on_host.RawKernel(self, name)

        def call(grid: Any, block: Any, arguments: Any) -> None:
            given, reads = _unwrapped(arguments)
            writes = _unwrapped([a for a, written in zip(arguments, kernel.outputs(), strict=True) if written])[1]
            launch(reads, writes, lambda: kernel(grid, block, given))

        return call


class Cublas:
    """What of cuBLAS is used, column by column; its functions take what C makes of their arguments."""

    def __init__(self) -> None:
        self.handles: dict[int, dict[str, Any]] = {}
        self.made = 0

    def typed(self, prototypes: dict[str, tuple[Any, ...]]) -> SimpleNamespace:
        """Return the functions, with arguments as their prototypes say."""

        def call(name: str, *arguments: Any) -> None:
            kinds = prototypes[name]
            assert len(arguments) == len(kinds), name
            pairs = zip(kinds, arguments, strict=True)
            # what stands for itself is an address that ctypes has taken, or a pointer
            given = [kind(a).value if isinstance(a, int) else getattr(a, "value", a) for kind, a in pairs]
            getattr(self, name)(*given)

        return SimpleNamespace(**{name: functools.partial(call, name) for name in prototypes})

    def cublasCreate_v2(self, place: Any) -> None:
        assert current().recording is None, "a handle asks for memory"
        self.made += 1
        self.handles[self.made] = {"device": Device.current}
        place._obj.value = self.made

    def cublasDestroy_v2(self, handle: int) -> None:
        assert current().recording is None, "it waits for the device"
        assert self.handles[handle]["device"] == Device.current, "it would wait for the other device"
        del self.handles[handle]

    def cublasSetStream_v2(self, handle: int, stream: int) -> None:
        own = self.handles[handle]
        assert own["device"] == Device.current, "a handle of the other device"
        self.handles[handle] = {"device": own["device"], "stream": stream}  # the workspace is taken back

    def cublasSetWorkspace_v2(self, handle: int, pointer: int, size: int) -> None:
        assert Memory.at(pointer).store.size >= size
        self.handles[handle]["workspace"] = Memory.at(pointer)

    def cublasGemmEx_64(
        self, handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int, a: int, kind_a: int, lda: int,
        b: int, kind_b: int, ldb: int, beta: int, c: int, kind_c: int, ldc: int, compute: int, algorithm: int,
    ) -> None:  # fmt: skip
        own = self.handles[handle]
        assert own["stream"] == current().ptr, "the handle is of another stream"
        dtype = {0: np.dtype("float32"), 1: np.dtype("float64"), 2: np.dtype("float16")}[kind_c]
        inner = np.dtype("float64" if kind_c == 1 else "float32")
        assert kind_a == kind_b == kind_c
        assert compute == {0: 68, 1: 70, 2: 68}[kind_c], "another precision"
        for pointer, value in ((alpha, 1.0), (beta, 0.0)):
            assert self.columns(pointer, 1, 1, 1, inner)[0, 0] == value
        A = self.columns(a, k, m, lda, dtype).T if op_a else self.columns(a, m, k, lda, dtype)
        B = self.columns(b, n, k, ldb, dtype).T if op_b else self.columns(b, k, n, ldb, dtype)
        C = self.columns(c, m, n, ldc, dtype)
        reads = [Memory.at(a), Memory.at(b), own["workspace"]]
        launch(
            reads,
            [Memory.at(c), own["workspace"]],
            lambda: np.copyto(C, A.astype(inner) @ B.astype(inner), casting="same_kind"),
        )

    @staticmethod
    def columns(address: int, rows: int, columns: int, step: int, dtype: np.dtype[Any]) -> Any:
        """Return a matrix stored column by column."""
        assert step >= rows
        size = (step * (columns - 1) + rows) * dtype.itemsize
        flat = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
        strides = (dtype.itemsize, step * dtype.itemsize)
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), strides, writeable=True)


# ------------------------------------------------------------------ CuPy

cupy_settled = [1]
"""The precision of products that CuPy has settled on: 1 the default, 7 TF32."""


@functools.cache
def cupy() -> Any:
    """Return the module."""
    fake: Any = ModuleType("cuda_on_host")
    for key, value in vars(np).items():
        if not key.startswith("__"):
            lifted = callable(value) and not isinstance(value, type) and key not in ("finfo", "iinfo", "isdtype")
            setattr(fake, key, _lifted(value) if lifted else value)

    def dot(A: Any, B: Any, out: Any = None) -> Any:
        _refuse_cublas()
        return _called(np.dot, (A, B), {"out": out})

    def empty(shape: Any, dtype: Any = float, device: Any = None) -> DeviceArray:
        return _new(np.empty(shape, dtype))

    for name in ("stack", "concat", "concatenate"):
        setattr(fake, name, _joining(getattr(np, name)))
    fake.asarray, fake.dot, fake.matmul, fake.empty = asarray, dot, dot, empty
    fake.empty_like = lambda array: _new(np.empty_like(array.host))  # in the same order
    fake.ndarray, fake.ElementwiseKernel, fake.RawModule = DeviceArray, ElementwiseKernel, RawModule
    runtime = SimpleNamespace(getDevice=lambda: Device.current, memcpyAsync=memcpy_async, memcpyHostToDevice=1)
    fake.cuda = SimpleNamespace(
        Device=Device, Stream=Stream, Event=Event, MemoryPool=MemoryPool, using_allocator=using_allocator,
        runtime=runtime, get_current_stream=current,
        MemoryPointer=lambda holder, offset: MemoryPointer(holder, holder.ptr + offset),
        Memory=_RawMemory, set_pinned_memory_allocator=pinned.set_allocator,
    )  # fmt: skip
    fake.get_default_pinned_memory_pool = lambda: SimpleNamespace(malloc=pinned.default)
    fake._core = SimpleNamespace(
        get_compute_type=lambda dtype: cupy_settled[0], _routines_linalg=SimpleNamespace(COMPUTE_TYPE_TF32=7)
    )
    return fake


class _RawMemory:
    def __init__(self, size: int) -> None:
        self.memory = Memory(size, None)
        self.ptr = self.memory.address


def _lifted(function: Any) -> Any:
    @functools.wraps(function)
    def call(*arguments: Any, device: Any = None, **kwargs: Any) -> Any:
        return _called(function, arguments, kwargs)

    return call


def _joining(function: Any) -> Any:
    @functools.wraps(function)
    def call(arrays: Any, **kwargs: Any) -> Any:
        if len(arrays) > 8:  # one kernel reads them all, by their addresses
            asarray(np.asarray([array.memory.address for array in arrays]))
        return _called(function, (arrays,), kwargs)

    return call


class _Library(libraries.Namespace):
    kernels = "cupy"
    needs_scope = True

    @contextlib.contextmanager
    def scope(self, device: Any) -> Iterator[None]:
        with device, np.errstate(all="ignore"):  # a device warns of nothing
            yield

    def put(self, xp: Any, host: Any, device: Any) -> Any:
        with device:
            return asarray(host)

    def get(self, array: Any) -> Any:
        with array.device:
            return array.get()

    def same_device(self, array: Any, device: Any) -> bool:
        return bool(array.device == device)

    def owns(self, array: Any) -> bool:
        return isinstance(array, DeviceArray)


cublas = Cublas()


@functools.cache
def kernels() -> ModuleType:
    """Return dense_xp.kernels.cupy, made for this device; nobody else sees its CuPy."""
    fakes: dict[str, Any] = {"cupy": cupy(), "cupyx": ModuleType("cupyx")}
    fakes["cupyx"].empty_pinned = empty_pinned
    own = [
        f"dense_xp.kernels.{name}"
        for name in ("cupy", "cupy_graph", "cupy_blas", "cupy_epilogues", "cupy_random", "cupy_lane")
    ]
    kept = {key: sys.modules.pop(key) for key in (*fakes, *own) if key in sys.modules}
    sys.modules.update(fakes)
    try:
        module = importlib.import_module("dense_xp.kernels.cupy")
        module.lane = importlib.import_module("dense_xp.kernels.cupy_lane").Lane  # type: ignore[attr-defined]
        products: Any = importlib.import_module("dense_xp.kernels.cupy_blas")
        products.WORKSPACE = 1024  # nobody works in it
        functions = cublas.typed(products.PROTOTYPES)
        products.library = lambda: functions
        assert module.blas()[0] is products, module.blas()[1]
        lt: Any = importlib.import_module("dense_xp.kernels.cupy_epilogues")
        lt.stand_in = importlib.import_module("tests.stand_ins.cublas_lt_on_host").CublasLt(products.StatusError)
        functions_lt = lt.stand_in.typed(lt.PROTOTYPES)
        lt.library = lambda: functions_lt
        assert module.blas_lt() is lt
        module.ROWS, module.THREADS = 4, 32  # type: ignore[attr-defined]  # threads cost more here
        return module
    finally:
        for key in (*fakes, *own):
            sys.modules.pop(key, None)
        sys.modules.update(kept)


def backend(number: int = 0) -> Backend:
    """Return the backend of one of these devices."""
    return Backend("cuda_on_host", cupy(), Device(number), _Library(cupy()))
