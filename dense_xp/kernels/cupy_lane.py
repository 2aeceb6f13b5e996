"""A stream of CuPy for copies from page-locked host memory to the device while it computes."""

from __future__ import annotations

from typing import Any, TypeAlias

import cupy
import cupyx

Array: TypeAlias = Any


class Lane:
    """A stream for copies; see :class:`dense_xp.kernels.Lane`."""

    pinned = staticmethod(cupyx.empty_pinned)
    empty = staticmethod(cupy.empty)

    def __init__(self, device: Any) -> None:
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Any:
        return cupy.cuda.Event(disable_timing=True)

    def send(self, host: Any, array: Array) -> None:
        upload = cupy.cuda.runtime.memcpyHostToDevice
        cupy.cuda.runtime.memcpyAsync(array.data.ptr, host.ctypes.data, array.nbytes, upload, self.stream.ptr)

    def marks(self, event: Any) -> None:
        event.record(self.stream)

    def waits(self, event: Any) -> None:
        self.stream.wait_event(event)

    def work_marks(self, event: Any) -> None:
        event.record(cupy.cuda.get_current_stream())

    def work_waits(self, event: Any) -> None:
        cupy.cuda.get_current_stream().wait_event(event)

    def host_waits(self, event: Any) -> None:
        event.synchronize()

    def finish(self) -> None:
        self.stream.synchronize()
