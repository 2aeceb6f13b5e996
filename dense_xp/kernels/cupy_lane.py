"""CuPy's way from the host to the device beside the computation: a stream of its own, and page-locked memory."""

from __future__ import annotations

from typing import Any, TypeAlias

import cupy
import cupyx

Array: TypeAlias = Any


class Lane:
    """A stream for copies; `work` is whatever stream is current when a method is called."""

    pinned = staticmethod(cupyx.empty_pinned)
    empty = staticmethod(cupy.empty)

    def __init__(self, device: Any) -> None:
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Any:
        """Return something to wait for; before it was marked, nobody has to."""
        return cupy.cuda.Event(disable_timing=True)

    def send(self, host: Any, array: Array) -> None:
        """Copy page-locked memory to an array, both contiguous."""
        upload = cupy.cuda.runtime.memcpyHostToDevice
        cupy.cuda.runtime.memcpyAsync(array.data.ptr, host.ctypes.data, array.nbytes, upload, self.stream.ptr)

    def marks(self, event: Any) -> None:
        """Let the event mean all copies so far."""
        event.record(self.stream)

    def waits(self, event: Any) -> None:
        """Let further copies wait for an event."""
        self.stream.wait_event(event)

    def work_marks(self, event: Any) -> None:
        """Let the event mean all work so far."""
        event.record(cupy.cuda.get_current_stream())

    def work_waits(self, event: Any) -> None:
        """Let further work wait for an event."""
        cupy.cuda.get_current_stream().wait_event(event)

    def host_waits(self, event: Any) -> None:
        """Wait for an event here and now."""
        event.synchronize()

    def finish(self) -> None:
        """Wait for all copies here and now."""
        self.stream.synchronize()
