"""Ctrl-C, and the SIGTERM of a batch system, while ranks train together: all end after the same step."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

from dense_xp.training.interrupts import Interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """A SIGTERM has ended a training."""


class SharedInterrupts(Interrupts):
    """Holds signals back until all ranks know of them: their counts are added up with the gradients of each step.

    A second Ctrl-C is raised at once. Only default handlers are replaced, and only in the main thread.

    Parameters
    ----------
    alone : bool, default False
        Whether there is only one rank.

    Attributes
    ----------
    asked : list of float
        How many of each of :data:`SIGNALS` have arrived here.
    """

    DEFAULTS = (*Interrupts.DEFAULTS, (signal.SIGTERM, signal.SIG_DFL))

    def __init__(self, alone: bool = False) -> None:
        super().__init__()
        self.asked = [0.0] * len(SIGNALS)
        self.alone = alone
        self._agreed: Sequence[float] = self.asked if alone else self.asked[:]

    def _raise_late(self) -> None:
        for number, count in zip(SIGNALS, self.asked, strict=True):  # Python's own handlers are back
            if count:
                signal.raise_signal(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        which = SIGNALS.index(signal.Signals(number))
        self.asked[which] += 1.0
        if number == signal.SIGINT and self.asked[which] > max(1.0, self._patience):
            self._raise()

    def agree(self, total: Sequence[float]) -> None:
        """Take the sum of :attr:`asked` over all ranks."""
        if not self.alone:
            self._agreed = total

    @property
    def agreed(self) -> bool:
        """Whether all ranks know that they are to end."""
        return any(self._agreed)

    def check(self) -> None:
        """Raise for a signal that all ranks know of, as all of them do after this step."""
        interrupted, terminated = self._agreed
        if terminated:
            raise Terminated
        if interrupted:
            raise KeyboardInterrupt
