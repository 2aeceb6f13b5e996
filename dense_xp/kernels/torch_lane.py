"""A stream of torch for copies from the host to a CUDA device while it computes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

Array: TypeAlias = Any


class Lane:
    """A stream for copies; see :class:`dense_xp.kernels.Lane`."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        return np.asarray(torch.empty(shape, dtype=_torch_dtype(dtype), pin_memory=True).numpy())

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return torch.empty(shape, dtype=_torch_dtype(dtype), device=self.device)

    def event(self) -> Any:
        return torch.cuda.Event()

    def send(self, host: np.ndarray[Any, Any], array: Array) -> None:
        with torch.cuda.stream(self.stream):
            array.copy_(torch.from_numpy(host), non_blocking=True)

    def marks(self, event: Any) -> None:
        event.record(self.stream)

    def waits(self, event: Any) -> None:
        self.stream.wait_event(event)

    def work_marks(self, event: Any) -> None:
        event.record(torch.cuda.current_stream(self.device))

    def work_waits(self, event: Any) -> None:
        torch.cuda.current_stream(self.device).wait_event(event)

    def host_waits(self, event: Any) -> None:
        event.synchronize()

    def finish(self) -> None:
        self.stream.synchronize()


def _torch_dtype(dtype: Any) -> Any:
    return torch.from_numpy(np.empty(0, dtype)).dtype
