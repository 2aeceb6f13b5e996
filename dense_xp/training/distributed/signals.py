"""Ctrl-C, and the SIGTERM of a batch system, while ranks train together: all end after the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from dense_xp.training.interrupts import Interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """A SIGTERM has ended a training."""


class SharedInterrupts(Interrupts):
    """Holds signals back until all ranks know of them, which a number beside the gradients of each step tells.

    A second Ctrl-C is raised where it arrives. Only handlers that nobody has replaced are, and only in the main thread.

    Parameters
    ----------
    alone : bool, default False
        Whether there is one rank: then what arrives here is known to all.

    Attributes
    ----------
    asked : list of float
        How many of each of :data:`SIGNALS` have arrived here.
    """

    def __init__(self, alone: bool = False) -> None:
        super().__init__()
        self.asked = [0.0] * len(SIGNALS)
        self.alone = alone
        self._agreed: Sequence[float] = self.asked if alone else self.asked[:]
        self._before: list[list[tuple[signal.Signals, Any]]] = []  # for each block that was entered

    def __enter__(self) -> SharedInterrupts:
        self._before.append([])
        if threading.current_thread() is threading.main_thread():
            for number, default in zip(SIGNALS, (signal.default_int_handler, signal.SIG_DFL), strict=True):
                if signal.getsignal(number) is default:
                    self._before[-1].append((number, signal.signal(number, self._handle)))
        return self

    def __exit__(self, *raised: object) -> None:
        before = self._before.pop()
        for number, handler in before:
            signal.signal(number, handler)
        for number, _ in before:
            if raised[0] is None and self.asked[SIGNALS.index(number)] and not self.agreed:  # too late for all to know
                signal.raise_signal(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        which = SIGNALS.index(signal.Signals(number))
        self.asked[which] += 1.0
        if number == signal.SIGINT and self.asked[which] > max(1.0, self._patience):
            self._raise()

    def agree(self, total: Sequence[float]) -> None:
        """Take what arrived at all ranks together.

        Parameters
        ----------
        total : sequence of float
            As :attr:`asked`.
        """
        if not self.alone:
            self._agreed = total

    @property
    def agreed(self) -> bool:
        """Whether all ranks know that they are to end."""
        return any(self._agreed)

    def check(self) -> None:
        """Raise what all ranks raise after this step, if they do."""
        interrupted, terminated = self._agreed
        if terminated:
            raise Terminated
        if interrupted:
            raise KeyboardInterrupt
