"""Ctrl-C during training: it ends the training after the present step, and never within it.

A second Ctrl-C ends it at once, and the model is again as it was before the epoch.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Holds a first Ctrl-C back within :meth:`held`; a second one is raised at once, and further ones are held back.

    Only Python's default handler is replaced, in the main thread, and restored at the end.
    """

    def __init__(self) -> None:
        self._holding = self._asked = self._raised = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        self._mine = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._mine:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._raised or (self._holding and not self._asked):
            self._asked = True
        else:
            self._raise()

    def _raise(self) -> None:
        self._raised = self._holding  # the cleanup of the block is not interrupted again
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold a Ctrl-C back until :meth:`check` or the end of the block."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = self._raised = False
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was held back."""
        if self._asked:
            self._asked = False
            self._raise()
