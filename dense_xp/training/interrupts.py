"""Ctrl-C while a model learns: it ends the training after the step that is being taken, and never within it.

Who cannot wait for the end of a step asks again, and gets back what the model was before the epoch.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Holds a first Ctrl-C back while :meth:`held`; a second one is raised where it arrives, and is its last.

    Only Python's own way of handling it, in the main thread, is replaced, and put back at the end.
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
        self.close()
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

    def close(self) -> None:
        """Hold back every Ctrl-C from here to the end of the block: what follows is quick, and left whole."""
        self._raised = self._holding

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was held back."""
        if self._asked:
            self._asked = False
            self._raise()
