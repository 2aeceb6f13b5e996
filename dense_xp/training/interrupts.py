"""Ctrl-C during training: it ends the training after the present step, and never within it.

A second Ctrl-C ends it at once, and the model is again as it was before the epoch.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ClassVar, Self


class Interrupts:
    """Notes each Ctrl-C within its block, and raises it only where that does no harm.

    Python may raise KeyboardInterrupt between any two instructions. A lock that was just taken is then never released.
    So the block raises nothing but within :meth:`held` and :meth:`open`. A Ctrl-C that was noted is raised by
    :meth:`check`, or at the end of the block.

    Only Python's default handler is replaced, in the main thread, and restored at the end. A block within another one,
    where a callback trains a second model, takes over for that time.
    """

    DEFAULTS: ClassVar[tuple[tuple[signal.Signals, Any], ...]] = ((signal.SIGINT, signal.default_int_handler),)
    """The signals that are noted, with Python's handlers of them."""

    def __init__(self) -> None:
        self._noted = 0
        self._patience: float = math.inf  # how many are noted before one is raised where it arrives
        self._before: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number, default in self.DEFAULTS:
                handler = signal.getsignal(number)
                if handler is default or isinstance(getattr(handler, "__self__", None), Interrupts):
                    self._before.append((number, handler))
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *raised: object) -> None:
        while self._before:
            signal.signal(*self._before.pop())
        if raised[0] is None:
            self._raise_late()

    def _raise_late(self) -> None:
        """Raise what arrived after the last check."""
        self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._noted += 1
        if self._noted > self._patience:
            self._raise()

    def _raise(self) -> None:
        self._noted, self._patience = 0, math.inf  # the cleanup is not interrupted again
        raise KeyboardInterrupt

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Raise a second Ctrl-C where it arrives, within the block that this returns."""
        return self._patient(1)

    def open(self) -> contextlib.AbstractContextManager[None]:
        """Raise each Ctrl-C where it arrives, and one that was noted before, within the block that this returns."""
        return self._patient(0)

    @contextlib.contextmanager
    def _patient(self, patience: float) -> Iterator[None]:
        before, self._patience = self._patience, patience
        try:
            if self._noted > patience:
                self._raise()
            yield
        finally:
            self._patience = before

    def undisturbed(self, function: Callable[[], object]) -> None:
        """Call a function in the midst of a block, and raise nothing within it."""
        before, self._patience = self._patience, math.inf
        function()
        self._patience = before

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was noted."""
        if self._noted:
            self._raise()
